"""Laws of the check of plans: who delivers is never disturbed, who does not is, for as long as is said."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.planner import TDCheck

ALL = torch.ones(1, dtype=torch.bool)


def left_to_policy(check, promised, rewards, keep, steps=1):
    """Whether each decision of one environment was left to the policy, given what plans promised and rewards."""
    broken = []
    for expected, reward in zip(promised, rewards, strict=True):
        broken.append(bool(check.failed(torch.tensor([expected]), ALL)))
        check.record(torch.tensor([reward]), torch.tensor([keep]), torch.tensor([float(steps)]), ALL)
    return broken


def returns(rewards, keep, end):
    """What each decision returns, if all of it came: Bellman's equation backwards."""
    found = [end]
    for reward in reversed(rewards):
        found.append(reward + keep * found[-1])
    return found[:0:-1]


@given(
    rewards=st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=120),
    keep=st.sampled_from([0.9, 0.99, 0.999]),
    end=st.floats(-100, 100, width=32),
    patience=st.integers(2, 50),
    steps=st.integers(1, 4),
)
def test_plans_that_come_true_are_never_broken(rewards, keep, end, patience, steps):
    """Whenever the rewards come: at once, late after long growth, or costs before gains."""
    check = TDCheck(patience, indifference=0.1)
    assert not any(left_to_policy(check, returns(rewards, keep, end), rewards, keep, steps))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_plans_that_do_not_pay_are_left_for_as_long_as_patience_and_tried_again(steps, share):
    expected, keep, patience = 100.0, 0.99, 30
    check = TDCheck(patience, indifference=0.1)
    broken = left_to_policy(check, [expected] * 200, [share * (1 - keep) * expected] * 200, keep, steps)
    first = broken.index(True)
    assert patience / 2 / steps < first < 3 * patience / steps
    held = -(-patience // steps)
    assert broken[first : 2 * first + held + 1] == [True] * held + [False] * first + [True]  # as fast as at first


def test_what_was_paid_beyond_the_promise_long_ago_excuses_nothing():
    expected, keep = 100.0, 0.99
    rewards = [3.0] * 200 + [0.0] * 100
    broken = left_to_policy(TDCheck(30, indifference=0.1), [expected] * 300, rewards, keep)
    assert 200 < broken.index(True) < 200 + 3 * 30


@pytest.mark.parametrize(("expected", "reward", "keep"), [(100.0, 0.6, 0.99), (0.05, 0.0, 0.99), (100.0, 0.0, 1.0)])
def test_plans_that_pay_most_or_are_worth_little_or_have_all_time_are_kept(expected, reward, keep):
    assert not any(left_to_policy(TDCheck(30, indifference=0.1), [expected] * 300, [reward] * 300, keep))


def test_each_environment_has_its_own_account_and_waits_till_it_is_asked():
    check, expected = TDCheck(30, indifference=0.1), torch.full((3,), 100.0)
    asked, keep, one = torch.tensor([True, True, False]), torch.full((3,), 0.99), torch.ones(3)
    for _ in range(25):
        broken = check.failed(expected, asked)
        check.record(torch.tensor([0.0, 1.0, 0.0]), keep, one, asked)
    assert broken.tolist() == [True, False, False]
    check.reset(torch.tensor([True, False, False]))
    assert not bool(check.failed(expected, torch.ones(3, dtype=torch.bool)).any())
