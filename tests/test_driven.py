"""Laws of episodes that an expert drives: they come first, are what it said, and are resumed as any others are."""

import functools

import gymnasium
import numpy as np
import pytest
import torch

from envs import arm
from envs.make import make, make_vector
from envs.settings import TaskConfig
from policies.settings import EXPERT
from policies.storage.checkpoint import save_checkpoint
from policies.training.episodes import episode_seed
from sim.so101 import experts as so101_experts
from sim.so101.tasks import SCRIPTED
from worldmodel.replay import sample_windows


class Told(gymnasium.Wrapper):
    """A toy whose expert pushes by what it has seen so far, or in every third episode does not know how to."""

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.asked, self.sum = bool((options or {}).get(EXPERT)), float(seed % 97) / 97
        self.lost = seed % 3 == 0
        return observation, info | self._say()

    def step(self, action):
        self.sum = (self.sum + abs(float(action[0])) + 0.3) % 1.0
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | self._say()

    def _say(self):
        if not self.asked:
            return {}
        return {EXPERT: np.full(2, np.nan) if self.lost else np.array([self.sum - 0.5, 0.5 - self.sum])}


@pytest.fixture
def told(toys):
    """Makes trainers whose first six episodes, or so many, are driven, in environments with these limits."""

    def make_one(*limits, weights=0, length=1, first=6, expert_takeover_prob=0.0):
        env = gymnasium.vector.SyncVectorEnv(
            [functools.partial(lambda limit: Told(toys.Slide(limit)), limit) for limit in limits],
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        )
        return toys.trainer(
            env, length, weights, loop={"demonstrations": first, "expert_takeover_prob": expert_takeover_prob}
        )

    return make_one


def advance(trainer, steps):
    """Run to so many control steps; the episodes that ended on the way."""
    return [end for _ in range((steps - trainer.steps) // trainer.episodes.env.num_envs) for end in trainer.step()]


@pytest.mark.parametrize("limits", [(9,), (5, 8, 6)])
def test_the_first_episodes_are_the_experts_and_no_others(told, limits):
    trainer, driven, planned = told(*limits), [], []
    act, step = trainer.agent.act, trainer.episodes.env.step

    def acting(seen, own):
        planned.extend([trainer.steps] * bool(own.any()))
        return act(seen, own)

    def stepping(action):
        here = trainer.episodes.experts.driving(trainer.episodes.number)
        np.testing.assert_array_equal(action[here], trainer.episodes.experts.action[torch.from_numpy(here)].numpy())
        driven.append(((trainer.episodes.number - 1) * len(limits) + np.arange(len(limits)))[here])
        return step(action)

    trainer.agent.act, trainer.episodes.env.step = acting, stepping
    advance(trainer, 200)
    episodes = np.unique(np.concatenate(driven))
    count = len(limits)
    seeds = [episode_seed(trainer.config.seed, 0, n % count, n // count + 1) for n in range(6)]
    assert set(episodes) == {n for n, seed in enumerate(seeds) if seed % 3}  # in the others it does not know how to
    assert len(episodes)
    assert planned and trainer.episodes.number.min() > 3


def test_a_batch_holds_its_share_of_what_experts_did(told):
    trainer = told(9)
    advance(trainer, 150)
    replay, generator = trainer.replay, torch.Generator().manual_seed(0)
    assert float(replay.demonstrated.float().sum()) / replay.steps < 0.4
    for share in (0.5, 1.0):
        window = sample_windows(replay, 40, 2, 1, generator, share)
        assert round(share * 40) <= int(window.demonstrated.sum())
    batch = trainer._draw()
    assert int(batch.demonstrated.sum()) >= round(
        trainer.learner.config.demonstration_fraction * len(batch.demonstrated)
    )


@pytest.mark.parametrize("limits", [(9,), (5, 8, 6)])
def test_an_expert_that_takes_over_keeps_the_episode_to_its_end(told, limits):
    trainer, taken = told(*limits, first=0, expert_takeover_prob=0.1), []
    step = trainer.episodes.env.step

    def stepping(action):
        here = trainer.episodes.experts.driving(trainer.episodes.number)
        np.testing.assert_array_equal(action[here], trainer.episodes.experts.action[torch.from_numpy(here)].numpy())
        taken.append((trainer.episodes.number.copy(), trainer.episodes.lengths.copy(), here.copy()))
        return step(action)

    trainer.episodes.env.step = stepping
    advance(trainer, 400)
    episode, length, here = (np.array(column) for column in zip(*taken, strict=True))
    begun = set()
    for env in range(len(limits)):
        first = {}
        for e, at, now in zip(episode[:, env], length[:, env], here[:, env], strict=True):
            if now:
                first.setdefault(e, at)
            assert now == (e in first)
        assert len(first) < episode[-1, env]  # not in each episode
        begun |= set(first.values())
    assert len(begun) > 2  # at any step


def test_when_an_expert_knows_no_further_the_agent_decides_anew(told):
    trainer, known = told(None, length=4, first=1), torch.full((1, 2), 0.5)
    advance(trainer, 8)  # of the seeding
    turns = [*[False] * 2, *[True] * 3, *[False] * 5, True, False]
    trainer.episodes.experts.note = lambda info: None
    for driven in turns:
        trainer.episodes.experts.action = known if driven else known * torch.nan
        advance(trainer, trainer.steps + 1)
    replay, rows = trainer.replay, slice(8, 8 + len(turns))
    assert replay.demonstrated[0, rows].tolist() == turns
    assert replay.was_planned[0, rows].nonzero().flatten().tolist() == [0, 5, 9, 11]


@pytest.mark.parametrize("limits", [(9,), (5, 8, 6)])
def test_an_episode_tells_how_many_of_its_steps_were_driven(told, limits):
    trainer, driven = told(*limits, first=2, expert_takeover_prob=0.1), []
    step = trainer.episodes.env.step

    def stepping(action):
        driven.append((trainer.episodes.number.copy(), trainer.episodes.experts.driving(trainer.episodes.number)))
        return step(action)

    trainer.episodes.env.step = stepping
    ends = [end.demonstrated_steps for end in advance(trainer, 300)]
    episode, here = (np.array(column) for column in zip(*driven, strict=True))
    counted = [
        int(here[episode[:, env] == number, env].sum())
        for env in range(len(limits))
        for number in range(1, trainer.episodes.number[env])
    ]
    assert sorted(ends) == sorted(counted)
    assert 0 in ends and {*limits} & {*ends} and len({*ends}) > 2  # none, all, some


@pytest.mark.parametrize("limits", [(9,), (5, 8, 6)])
def test_a_run_resumed_after_a_takeover_is_the_run_itself(toys, told, tmp_path, limits):
    whole, met = told(*limits, first=0, expert_takeover_prob=0.3), 0
    for steps in (12, 24, 33, 60, 72):
        advance(whole, steps)
        met += whole.episodes.experts.taken.any()
        path = save_checkpoint(tmp_path, toys.spec(whole), whole.state_dict(), {}, 99)
        resumed = told(*limits, first=0, expert_takeover_prob=0.3, weights=1)
        toys.resume(path, resumed)
        advance(whole, steps + 9)
        advance(resumed, steps + 9)
        assert torch.equal(resumed.replay.action, whole.replay.action)
        assert torch.equal(resumed.replay.demonstrated, whole.replay.demonstrated)
        assert (resumed.episodes.experts.steps == whole.episodes.experts.steps).all()
        assert torch.equal(resumed.learner.flat, whole.learner.flat)
    assert met


@pytest.mark.parametrize("limits", [(9,), (5, 8, 6)])
def test_a_run_resumed_among_them_is_the_run_itself(toys, told, tmp_path, limits):
    whole = told(*limits, length=4)
    for steps in (12, 24, 33):
        advance(whole, steps)
        path = save_checkpoint(tmp_path, toys.spec(whole), whole.state_dict(), {}, 99)
        resumed = told(*limits, length=4, weights=1)
        toys.resume(path, resumed)
        advance(whole, steps + 9)
        advance(resumed, steps + 9)
        assert torch.equal(resumed.replay.action, whole.replay.action)
        assert torch.equal(resumed.learner.flat, whole.learner.flat)
        torch.testing.assert_close(
            resumed.episodes.experts.action, whole.episodes.experts.action, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("name", SCRIPTED)
def test_the_arms_expert_drives_its_task(name):
    """Through the actions that a learner has, within the time that it has."""
    env, done = make(TaskConfig(name)), 0
    for seed in range(4):
        _, info = env.reset(seed=seed, options={EXPERT: True})
        ended, succeeded = False, False
        while not ended:
            assert (np.abs(info[EXPERT]) < 1).all()  # not cut: at 1 the script would be faster than a learner can be
            _, _, terminated, truncated, info = env.step(info[EXPERT].astype(np.float32))
            ended, succeeded = terminated or truncated, succeeded or info["is_success"]
        done += succeeded
    assert done >= 3


def test_an_episode_is_the_same_whether_its_expert_is_asked_or_not():
    env, shown = make(TaskConfig("so101-touch")), []
    for options in (None, {EXPERT: True}):
        observation, info = env.reset(seed=4, options=options)
        shown.append([observation["observation.state"], env.step(np.full(6, 0.3, np.float32))[0]["observation.state"]])
        assert (EXPERT in info) == bool(options)
    np.testing.assert_array_equal(*shown)


def test_where_the_expert_cannot_it_says_no_number(monkeypatch):
    def cannot(*_):
        raise so101_experts.Unreachable("far away")

    monkeypatch.setattr(so101_experts, "expert", cannot)
    env = make_vector(TaskConfig("so101-pick-lift"), 1)
    _, info = env.reset(seed=[1], options={"reset_mask": np.ones(1, bool), EXPERT: True})
    assert info[f"_{EXPERT}"].all() and np.isnan(info[EXPERT]).all()
    assert arm.EXPERT == EXPERT
