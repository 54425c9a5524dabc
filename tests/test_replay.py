"""Laws of the replay: what a window may show, what it must not know, and what is drawn how often."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY
from worldmodel.windows import Window, sample_demonstrated_starts, sample_starts, sample_windows, window_at

S, A, P = 2, 3, 4
SEEN = {STATE_KEY: (S,)}
SHAPES = [(1, 1), (1, 2), (1, 4), (3, 1), (3, 2), (2, 4)]  # horizon, length


class Diary:
    """Writes a Replay and, beside it, a plain list of rows: the reference. Every number written is another one."""

    def __init__(self, capacity, envs):
        self.replay = Replay(capacity, envs, SEEN, A, P)
        self.rows = [[] for _ in range(envs)]
        self.serial = 0

    def _numbers(self, size):
        self.serial += size
        return torch.arange(self.serial - size, self.serial) + 1.0

    def _see(self, env, state):
        self.rows[env].append({"state": state, "action": None})
        del self.rows[env][: -self.replay.rows]

    def start(self, env):
        state = self._numbers(S)
        self.replay.start(env, {STATE_KEY: state})
        self._see(env, state)

    def step(self, env, terminated=False):
        action, reward, state = self._numbers(A), float(self._numbers(1)), self._numbers(S)
        planned_token = self._numbers(P) if self.serial % 2 else None
        demonstrated = self.serial % 3 == 0
        self.rows[env][-1] |= {
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "planned_token": planned_token,
        }
        self.rows[env][-1]["demonstrated"] = demonstrated
        self.replay.add(env, action, reward, {STATE_KEY: state}, terminated, planned_token, demonstrated)
        self._see(env, state)

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
            fields = (window.seen[STATE_KEY], window.action, window.reward, window.terminated, window.valid)
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


episodes = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6)  # steps, whether it terminates


@settings(max_examples=60)
@given(st.lists(episodes, min_size=1, max_size=3), st.integers(1, 40), st.randoms(use_true_random=False))
def test_every_window_is_what_its_definition_says(plans, capacity, random):
    diary = Diary(max(capacity, len(plans)), len(plans))
    waiting = []
    for env, plan in enumerate(plans):
        todo = []
        for steps, terminates in plan:
            todo += [lambda env=env: diary.start(env)]
            todo += [lambda env=env, last=n == steps - 1 and terminates: diary.step(env, last) for n in range(steps)]
        waiting.append(todo)
    while any(waiting):
        random.choice([todo for todo in waiting if todo]).pop(0)()
    diary.check()
    assert len(diary.replay) == sum(map(len, diary.rows))
    assert diary.replay.steps == len(list(diary.steps()))


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("steps", range(1, 9))
def test_termination_is_known_and_truncation_is_not(length, steps):
    windows = []
    for terminates in (True, False):
        diary = Diary(50, 1)
        diary.start(0)
        for n in range(steps):
            diary.step(0, terminates and n == steps - 1)
        diary.start(0)  # the next episode, into which no window may look
        for _ in range(8):
            diary.step(0)
        windows.append(window_at(diary.replay, torch.tensor([0]), torch.tensor([0]), 8 // length, length))
    over, cut = windows
    whole, begun = steps // length, -(-steps // length)
    assert over.valid[:, 0].tolist() == [True] * begun + [False] * (8 // length - begun)
    assert cut.valid[:, 0].tolist() == [True] * whole + [False] * (8 // length - whole)
    assert over.terminated[begun - 1 :].all() and not over.terminated[: begun - 1].any()
    assert not cut.terminated.any()
    for window in windows:
        assert (window.reward.flatten()[steps:] == 0).all() and (window.reward.flatten()[:steps] > 0).all()
        actions = window.action.flatten(0, 2)
        assert (actions[steps : begun * length] == actions[steps - 1]).all()
        assert (actions[begun * length :] == 0).all()


def test_a_step_is_usable_at_once(generator):
    diary = Diary(10, 2)
    diary.start(0)
    diary.start(1)
    with pytest.raises(ValueError, match="no step"):
        sample_windows(diary.replay, 4, 1, 1, generator)
    diary.step(1)
    window = sample_windows(diary.replay, 4, 1, 1, generator)
    assert window.valid.all()
    assert torch.equal(window.seen[STATE_KEY][1], diary.rows[1][-1]["state"].expand(4, S))


def test_a_step_before_an_episode_is_refused():
    with pytest.raises(ValueError, match="environment 1: no episode has begun"):
        Replay(10, 2, SEEN, A).add(1, torch.zeros(A), 0.0, {STATE_KEY: torch.zeros(S)}, False)


def test_a_full_ring_drops_its_oldest_steps():
    diary = Diary(6, 1)
    diary.start(0)
    for _ in range(20):
        diary.step(0)
    window = window_at(
        diary.replay, torch.zeros(6, dtype=torch.long), torch.tensor([r for *_, r in diary.steps()]), 1, 1
    )
    newest = [row["reward"] for row in diary.rows[0] if row["action"] is not None]
    assert window.reward.flatten().tolist() == newest
    assert newest[-1] > diary.serial - 10
    assert len(diary.replay) == 7


def test_it_knows_how_rare_another_reward_is():
    replay = Replay(80, 2, SEEN, A)
    assert math.isnan(replay.rewarded())
    for env in (0, 1):
        for episode in range(2):
            replay.start(env, {STATE_KEY: torch.zeros(S)})
            for n in range(10):
                reward = -1.0 if (env, episode, n) != (1, 0, 4) else 3.0
                replay.add(env, torch.zeros(A), reward, {STATE_KEY: torch.zeros(S)}, False)
    assert replay.rewarded() == pytest.approx(1 / 40)
    for n in range(10):
        replay.add(0, torch.zeros(A), float(n), {STATE_KEY: torch.zeros(S)}, False)
    assert replay.rewarded() == pytest.approx(float(np.mean(replay.reward[~replay.final].numpy() != -1)))


def test_steps_are_drawn_uniformly_over_all_environments(generator):
    diary = Diary(90, 3)
    for env, plan in enumerate(([3, 1, 8, 30], [5], [2, 2, 2, 2, 9])):  # the first one has wrapped
        for steps in plan:
            diary.start(env)
            for n in range(steps):
                diary.step(env, n == steps - 1)
    held = {(env, row): n for n, (env, _, row) in enumerate(diary.steps())}
    assert len({env for env, _ in held}) == 3
    env, row = sample_starts(diary.replay, 20_000, generator)
    counts = torch.bincount(torch.tensor([held[e, r] for e, r in zip(env.tolist(), row.tolist(), strict=True)]))
    assert len(counts) == len(held)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("steps", [4, 25])
def test_a_replay_read_back_gives_the_same_windows_and_goes_on_alike(steps):
    one, other = Diary(20, 2), Replay(20, 2, SEEN, A, P)
    for env in (0, 1):
        one.start(env)
        for n in range(steps + env):
            one.step(env, n % 5 == 4)
    other.load_state_dict({name: t.clone() for name, t in one.replay.state_dict().items()})
    assert other.steps == one.replay.steps
    for again in range(3):
        windows = [
            sample_windows(replay, 32, 2, 2, torch.Generator().manual_seed(again)) for replay in (one.replay, other)
        ]
        assert torch.equal(*(window.seen[STATE_KEY] for window in windows))
        for name in (f.name for f in dataclasses.fields(Window) if f.name != "seen"):
            assert torch.equal(getattr(windows[0], name), getattr(windows[1], name))
        one.step(0)
        step, last = one.rows[0][-2:]
        other.add(0, step["action"], step["reward"], {STATE_KEY: last["state"]}, False, step["planned_token"])


def test_what_a_replay_held_before_it_was_read_back_is_gone():
    few, many = Diary(20, 2), Diary(20, 2)
    for diary, steps in ((few, 3), (many, 9)):
        for env in (0, 1):
            diary.start(env)
            for n in range(steps):
                diary.step(env, n == steps - 1)
    many.replay.load_state_dict({name: t.clone() for name, t in few.replay.state_dict().items()})
    assert many.replay.steps == few.replay.steps == 6


def test_rows_never_written_are_not_saved():
    diary = Diary(1000, 1)
    diary.start(0)
    diary.step(0)
    assert diary.replay.state_dict()[STATE_KEY].shape == (1, 2, S)


@pytest.mark.parametrize(
    "other",
    [
        Replay(21, 1, SEEN, A, P),
        Replay(40, 2, SEEN, A, P),
        Replay(20, 1, {STATE_KEY: (S + 1,)}, A, P),
        Replay(20, 1, SEEN, A),
    ],
)
def test_a_replay_of_another_size_is_refused(other):
    diary = Diary(20, 1)
    diary.start(0)
    diary.step(0)
    with pytest.raises(ValueError, match="replay"):
        other.load_state_dict(diary.replay.state_dict())


def test_no_room_is_refused():
    with pytest.raises(ValueError, match=r"replay\.capacity=2"):
        Replay(2, 3, SEEN, A)


def test_frames_that_no_memory_holds_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^replay of observation\.images\.front: no room for 786432000 GB") as caught:
        Replay(10**12, 1, {"observation.images.front": (512, 512, 3)}, A)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory a process has")
def test_room_that_is_not_used_takes_no_memory():
    """A gigabyte of frames, of which ten are written."""
    code = """
import torch
from worldmodel.replay import Replay
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
key = "observation.images.front"
replay = Replay(80_000, 1, {key: (64, 64, 3)}, 1)
replay.start(0, {key: torch.ones(64, 64, 3, dtype=torch.uint8)})
for _ in range(10):
    replay.add(0, torch.zeros(1), 0.0, {key: torch.ones(64, 64, 3, dtype=torch.uint8)}, False)
assert replay.seen[key].numel() > 9e8
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5e7
