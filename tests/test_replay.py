"""Laws of the replay: what a window may show, what it must not know, and what is drawn how often."""

import copy
import math
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.observation import Observation
from worldmodel.replay import Replay, sample_demonstrated_starts, sample_starts, sample_windows, window_at
from worldmodel.senses import STATE_KEY

S, A, P = 2, 3, 4
SEEN = {STATE_KEY: (S,)}
SHAPES = [(1, 1), (1, 2), (1, 4), (3, 1), (3, 2), (2, 4)]  # horizon, length


def see(state):
    """An observation of these states."""
    return Observation.of(SEEN, {STATE_KEY: state})


class Diary:
    """Writes a Replay and, beside it, a plain list of rows: the reference. Every number written is another one."""

    def __init__(self, capacity, envs):
        self.replay = Replay(capacity, envs, SEEN, A, P)
        self.rows = [[] for _ in range(envs)]
        self.serial = 0

    def _numbers(self, *size):
        self.serial += math.prod(size)
        return torch.arange(self.serial - math.prod(size), self.serial).view(size) + 1.0

    def _see(self, env, state):
        self.rows[env].append({"state": state, "action": None})
        del self.rows[env][: -self.replay.rows]

    def start(self, *envs):
        begun, state = torch.zeros(len(self.rows), dtype=torch.bool), self._numbers(len(self.rows), S)
        begun[list(envs)] = True
        self.replay.start(begun, see(state))
        for env in envs:
            self._see(env, state[env])

    def step(self, *terminated):
        """Of every environment; the numbers of those that terminate."""
        count = len(self.rows)
        action, reward, state, token = (self._numbers(count, n) for n in (A, 1, S, P))
        over = torch.tensor([env in terminated for env in range(count)])
        planned, demonstrated = (torch.tensor([(self.serial + env) % n == 0 for env in range(count)]) for n in (2, 3))
        self.replay.add(see(state), action, reward[:, 0], over, token, planned, demonstrated)
        for env in range(count):
            self.rows[env][-1] |= {
                "action": action[env],
                "reward": float(reward[env]),
                "terminated": bool(over[env]),
                "planned_token": token[env] if planned[env] else None,
                "demonstrated": bool(demonstrated[env]),
            }
            self._see(env, state[env])

    def steps(self):
        """Every step held, as (env, index in that environment's rows, row in the replay)."""
        for env, rows in enumerate(self.rows):
            for i, row in enumerate(rows):
                if row["action"] is not None:
                    at = (int(self.replay.head[env]) - (len(rows) - 1 - i)) % self.replay.rows
                    yield env, i, at

    def expected(self, env, i, horizon, length):
        """The window from there: the episode as a list, then the definition of every field, word by word."""
        rows = self.rows[env][i:]
        known = next(n for n, row in enumerate(rows) if row["action"] is None or row["terminated"])
        over = rows[known]["action"] is not None  # it stops at a termination, not for want of steps
        known += over
        state = [rows[min(h * length, known)]["state"] for h in range(horizon + 1)]
        action, reward = torch.zeros(horizon, length, A), torch.zeros(horizon, length)
        for n in range(min(known, horizon * length)):
            action.view(-1, A)[n], reward.view(-1)[n] = rows[n]["action"], rows[n]["reward"]
        for n in range(known, min(-(-known // length), horizon) * length):  # the last token goes on as it was
            action.view(-1, A)[n] = rows[known - 1]["action"]
        tokens = range(horizon)
        valid = [(h + 1) * length <= known or (over and h * length < known) for h in tokens]
        terminated = [over and known <= (h + 1) * length for h in tokens]
        return torch.stack(state), action, reward, torch.tensor(terminated), torch.tensor(valid)

    def check(self):
        """Compare every window at every step held, all starts in one call."""
        held = list(self.steps())
        if not held:
            return
        env, _, row = (torch.tensor(x) for x in zip(*held, strict=True))
        for horizon, length in SHAPES:
            window = window_at(self.replay, env, row, horizon, length)
            fields = (window.seen.values[STATE_KEY], window.action, window.reward, window.terminated, window.valid)
            for b, (e, i, _) in enumerate(held):
                for got, want in zip(fields, self.expected(e, i, horizon, length), strict=True):
                    assert torch.equal(got[:, b], want), (horizon, length, e, i)
                planned_token = self.rows[e][i]["planned_token"]
                assert bool(window.was_planned[b]) == (planned_token is not None)
                assert planned_token is None or torch.equal(window.planned_token[b], planned_token)
                assert bool(window.demonstrated[b]) == self.rows[e][i]["demonstrated"]
        drawn = sample_demonstrated_starts(self.replay, 50, torch.Generator().manual_seed(0))
        shown = {(e, at) for e, i, at in held if self.rows[e][i]["demonstrated"]}
        assert set(zip(*(x.tolist() for x in drawn), strict=True)) <= shown
        assert len(drawn[0]) == (50 if shown else 0)


ends = st.lists(st.lists(st.sampled_from(["", "", "", "cut", "over"]), min_size=3, max_size=3), max_size=30)


@settings(max_examples=60)
@given(ends, st.integers(1, 3), st.integers(1, 40))
def test_every_window_is_what_its_definition_says(plan, count, capacity):
    """At each step every environment steps on, and some are cut or terminate there, and begin anew."""
    diary = Diary(max(capacity, count), count)
    diary.start(*range(count))
    for fates in plan:
        diary.step(*(env for env in range(count) if fates[env] == "over"))
        if begun := [env for env in range(count) if fates[env]]:
            diary.start(*begun)
    diary.check()
    assert len(diary.replay) == sum(map(len, diary.rows))
    assert diary.replay.steps == len(list(diary.steps()))


def test_a_step_before_an_episode_is_refused():
    replay, nothing = Replay(10, 2, SEEN, A), see(torch.zeros(2, S))
    replay.start(torch.tensor([True, False]), nothing)
    with pytest.raises(ValueError, match="environment 1: no episode has begun"):
        replay.add(nothing, torch.zeros(2, A), torch.zeros(2), torch.zeros(2, dtype=torch.bool))


def test_it_knows_how_rare_another_reward_is():
    replay, nothing, on = Replay(80, 2, SEEN, A), see(torch.zeros(2, S)), torch.zeros(2, dtype=torch.bool)
    assert math.isnan(replay.rewarded())
    replay.start(~on, nothing)
    for n in range(20):
        replay.add(nothing, torch.zeros(2, A), torch.tensor([-1.0, 3.0 if n == 4 else -1.0]), on)
    assert replay.rewarded() == pytest.approx(1 / 40)


@pytest.mark.parametrize("capacity", [90, 300])  # a ring that is full, and one that is not
def test_steps_are_drawn_uniformly_over_all_environments(generator, capacity):
    diary = Diary(capacity, 3)
    diary.start(0, 1, 2)
    for n in range(1, 41):  # the last has the most beginnings, so that its ring holds the fewest steps
        diary.step()
        if begun := [env for env, every in enumerate((40, 7, 2)) if n % every == 0]:
            diary.start(*begun)
    held = {(env, row): n for n, (env, _, row) in enumerate(diary.steps())}
    assert len({env for env, _ in held}) == 3
    env, row = sample_starts(diary.replay, 20_000, generator)
    counts = torch.bincount(torch.tensor([held[e, r] for e, r in zip(env.tolist(), row.tolist(), strict=True)]))
    assert len(counts) == len(held)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("steps", [4, 25])
def test_a_replay_read_back_is_the_same_and_goes_on_alike(steps):
    """Whatever it held before."""
    one, other, third = (Diary(20, 2) for _ in range(3))
    for diary, count in ((one, steps), (other, 9)):
        diary.start(0, 1)
        for n in range(count):
            diary.step()
            if n % 5 == 4:
                diary.start(n % 2)
    saved = {name: t.clone() for name, t in one.replay.state_dict().items()}
    other.replay.load_state_dict(saved)
    third.replay = Replay.read(saved, SEEN, (0,))
    for read in (other, third):
        read.rows, read.serial = copy.deepcopy(one.rows), one.serial
    for diary in (one, other, third):
        diary.step()
        diary.check()
        assert diary.replay.steps == len(list(diary.steps()))
    drawn = [sample_windows(d.replay, 32, 2, 2, torch.Generator().manual_seed(1), 0.5) for d in (one, other, third)]
    for name in ("action", "reward", "terminated", "valid", "was_planned", "demonstrated"):
        assert torch.equal(getattr(drawn[0], name), getattr(drawn[1], name))
        assert torch.equal(getattr(drawn[0], name), getattr(drawn[2], name))


def test_as_many_windows_as_were_wished_begin_where_an_expert_drove(generator):
    diary = Diary(90, 1)
    diary.start(0)
    for _ in range(60):
        diary.step()
    assert diary.replay.demonstrated[0, : diary.replay.rows].sum() < 30
    window = sample_windows(diary.replay, 40, 1, 1, generator, 0.75)
    assert window.demonstrated[:30].all() and not window.demonstrated[30:].all() and len(window.demonstrated) == 40


@pytest.mark.parametrize("other", [Replay(21, 1, SEEN, A, P), Replay(40, 2, SEEN, A, P), Replay(20, 1, SEEN, A)])
def test_a_replay_of_another_size_is_refused(other):
    diary = Diary(20, 1)
    diary.start(0)
    diary.step()
    with pytest.raises(ValueError, match="replay"):
        other.load_state_dict(diary.replay.state_dict())


def test_what_no_memory_holds_and_no_room_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"replay\.capacity=2"):
        Replay(2, 3, SEEN, A)
    with pytest.raises(ValueError, match=r"^replay of observation\.state: no room for 3145728000 GB") as caught:
        Replay(10**12, 1, {STATE_KEY: (786432,)}, A)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory a process has")
def test_room_that_is_not_used_takes_no_memory():
    """A gigabyte of frames, of which ten are written."""
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096  # noqa: E731
    key, before = "observation.images.front", resident()
    replay = Replay(80_000, 1, {key: (64, 64, 3)}, 1)
    seen = Observation.of({key: (64, 64, 3)}, {key: torch.ones(1, 64, 64, 3, dtype=torch.uint8)})
    replay.start(torch.tensor([True]), seen)
    for _ in range(10):
        replay.add(seen, torch.zeros(1, 1), torch.zeros(1), torch.tensor([False]))
    assert replay.seen[key].numel() > 9e8
    assert resident() - before < 5e7
