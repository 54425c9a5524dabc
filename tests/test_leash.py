"""The account of promised and realised gains over the policy."""

import pytest
import torch

from worldmodel.leash import Leash, Step

WINDOW, NEAR, KEEP, TOKENS = 50.0, 0.01, 0.9, 5
DUE = torch.ones(3, dtype=torch.bool)


def run(promise: float, advantage: float, far: float, decisions: int, own: float = 7.0, leash: Leash | None = None):
    """Decide `decisions` times in three environments, each step worth `advantage` more than the policy's own."""
    leash = leash or Leash(WINDOW, NEAR)
    ones = torch.ones(3)
    lasts = (1 - KEEP**TOKENS) / (1 - KEEP) * ones
    for _ in range(decisions):
        leash.observe(own * ones, ones, DUE)
        reward = advantage + (1 - KEEP) * own
        leash.note(Step(own * ones, reward * ones, KEEP * ones, promise * ones, lasts, far * ones, ones, ones), DUE)
    return leash


def test_plans_that_keep_their_promises_are_not_held():
    discounted = (1 - KEEP**TOKENS) / (1 - KEEP)
    leash = run(promise=0.3 * discounted, advantage=0.3, far=0.5, decisions=100)
    assert float(leash.anchor) == pytest.approx(0, abs=1e-5) and float(leash.margin) == pytest.approx(0, abs=1e-5)
    assert float(run(promise=0.0, advantage=0.3, far=0.5, decisions=100).anchor) == 0


def test_the_anchor_takes_away_what_plans_do_not_keep():
    leash = run(promise=2.0, advantage=0.0, far=0.5, decisions=1000)
    assert float(leash.margin) == pytest.approx(2.0, rel=0.1) and float(leash.margin) < 2
    assert float(leash.anchor) * 0.5 == pytest.approx(2.0, rel=0.15) and float(leash.anchor) * 0.5 < 2


def test_the_unit_of_the_reward_does_not_matter():
    small, large = run(2.0, 0.1, 0.5, 100), run(200.0, 10.0, 0.5, 100, own=700.0)
    torch.testing.assert_close(100 * small.anchor, large.anchor, rtol=1e-4, atol=0)


def test_what_was_learned_fades_but_outlives_an_episode():
    leash = run(2.0, 0.0, 0.5, 200)
    held = float(leash.margin)
    leash.forget(DUE)
    leash.observe(torch.full((3,), -1e6), torch.ones(3), DUE)  # a new episode's start, no outcome of the last decision
    assert float(leash.margin) == held
    discounted = (1 - KEEP**TOKENS) / (1 - KEEP)
    run(2.0, 2.0 / discounted, 0.5, 300, leash=leash)
    assert float(leash.margin) < 0.02 * held


def test_everything_can_be_saved():
    leash = run(2.0, 0.1, 0.5, 30)
    other = Leash(WINDOW, NEAR)
    other.load(leash.state())
    for each in (leash, other):
        run(1.0, 0.2, 0.4, 5, leash=each)
    assert torch.equal(leash.state(), other.state())
