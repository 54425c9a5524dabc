"""Laws of episodes that an expert drives: they come first, are what it does, and are resumed as any others are."""

import functools

import gymnasium
import numpy as np
import pytest
import torch

from envs.make import make
from envs.settings import TaskConfig
from policies.settings import EXPERT
from policies.training.episodes import episode_seed
from sim.so101.tasks import SCRIPTED
from worldmodel.replay import sample_windows

LIMITS = (5, 8, 6)  # steps of the episodes of three environments


class Expert(gymnasium.Wrapper):
    """A toy whose expert pushes by what it has observed so far, or in every third episode does not know how to."""

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.wanted, self.sum = bool((options or {}).get(EXPERT)), float(seed % 97) / 97
        self.lost = seed % 3 == 0
        return observation, info | self._action()

    def step(self, action):
        self.sum = (self.sum + abs(float(action[0])) + 0.3) % 1.0
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | self._action() | {"is_success": self.sum > 0.85}

    def _action(self):
        if not self.wanted:
            return {}
        return {EXPERT: np.full(2, np.nan) if self.lost else np.array([self.sum - 0.5, 0.5 - self.sum])}


@pytest.fixture
def driven(toys):
    """Makes trainers whose first six episodes, or so many, are driven, in environments with these limits."""

    def make_one(*limits, weights=0, length=1, first=6, takeover=0.0):
        env = gymnasium.vector.SyncVectorEnv(
            [functools.partial(lambda limit: Expert(toys.Slide(limit)), limit) for limit in limits],
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        )
        loop = {"demonstrations": first, "expert_takeover_prob": takeover}
        return toys.trainer(env, length, weights, loop=loop, updates_per_token=0.1)

    return make_one


def advance(trainer, steps):
    """Run to so many control steps; the episodes that ended on the way."""
    return [end for _ in range((steps - trainer.steps) // trainer.episodes.env.num_envs) for end in trainer.step()]


def watch(trainer) -> list:
    """From now on, what each step was: each environment's episode, its steps so far, whether the expert drives.

    What it drives is what it does.
    """
    steps, step, episodes = [], trainer.episodes.env.step, trainer.episodes

    def stepping(action):
        here = episodes.experts.driving(episodes.number)
        np.testing.assert_array_equal(action[here], episodes.experts.action[torch.from_numpy(here)].numpy())
        steps.append((episodes.number.copy(), episodes.lengths.copy(), here.copy()))
        return step(action)

    trainer.episodes.env.step = stepping
    return steps


def test_the_first_episodes_are_the_experts_and_no_others(driven):
    trainer, planned, count = driven(*LIMITS), [], len(LIMITS)
    steps, act = watch(trainer), trainer.agent.act

    def acting(observation, own):
        planned.extend([trainer.steps] * bool(own.any()))
        return act(observation, own)

    trainer.agent.act = acting
    advance(trainer, 120)
    number, _, here = (np.array(column) for column in zip(*steps, strict=True))
    episodes = np.unique(((number - 1) * count + np.arange(count))[here])
    seeds = [episode_seed(trainer.config.seed, 0, n % count, n // count + 1) for n in range(6)]
    assert set(episodes) == {n for n, seed in enumerate(seeds) if seed % 3}  # in the others it does not know how to
    assert len(episodes) and planned and trainer.episodes.number.min() > 3
    assert not any(env.wanted for env in trainer.episodes.env.envs)  # none is asked once none is needed


def test_an_episode_is_the_sum_of_its_rewards_and_succeeded_if_it_did_at_any_step(driven):
    trainer, ended, sums = driven(*LIMITS), [], np.zeros((3, len(LIMITS)))
    step = trainer.episodes.env.step

    def stepping(action):
        result = _, reward, terminated, truncated, info = step(action)
        sums[:] += [reward, np.ones(3), info["is_success"]]
        for env in (terminated | truncated).nonzero()[0]:
            ended.append([*sums[:2, env], min(sums[2, env], 1)])
            sums[:, env] = 0
        return result

    trainer.episodes.env.step = stepping
    ends = [[end[f"episode_{name}"] for name in ("return", "length", "success")] for end in advance(trainer, 120)]
    np.testing.assert_allclose(ends, ended)
    assert {success for *_, success in ends} == {0, 1}


def test_a_batch_holds_its_share_of_what_experts_did(driven):
    trainer = driven(9)
    advance(trainer, 60)
    replay, generator = trainer.replay, torch.Generator().manual_seed(0)
    assert float(replay.demonstrated.float().sum()) / replay.steps < 0.4
    for share in (0.5, 1.0):
        window = sample_windows(replay, 40, 2, 1, generator, share)
        assert round(share * 40) <= int(window.demonstrated.sum())
    share, batch = trainer.learner.config.demonstration_fraction, trainer._draw()
    assert int(batch.demonstrated.sum()) >= round(share * len(batch.demonstrated))


def test_an_expert_that_takes_over_keeps_the_episode_to_its_end(driven):
    trainer = driven(*LIMITS, first=0, takeover=0.15)
    steps = watch(trainer)
    ends = [end["episode_driven"] for end in advance(trainer, 180)]
    episode, length, here = (np.array(column) for column in zip(*steps, strict=True))
    begun, counted = set(), []
    for env in range(len(LIMITS)):
        first = {}
        for e, at, now in zip(episode[:, env], length[:, env], here[:, env], strict=True):
            if now:
                first.setdefault(e, at)
            assert now == (e in first)
        assert len(first) < episode[-1, env]  # not in each episode
        begun |= set(first.values())
        counted += [int(here[episode[:, env] == n, env].sum()) for n in range(1, trainer.episodes.number[env])]
    assert len(begun) > 2  # at any step
    assert sorted(ends) == sorted(counted)  # each says how many of its steps were driven:
    assert 0 in ends and {*LIMITS} & {*ends} and len({*ends}) > 2  # none, all, some


def test_when_an_expert_knows_no_further_the_agent_decides_anew(driven):
    trainer, known = driven(None, length=4, first=1), torch.full((1, 2), 0.5)
    advance(trainer, 8)  # of the seeding
    turns = [*[False] * 2, *[True] * 3, *[False] * 5, True, False]
    trainer.episodes.experts.note = lambda info: None
    for drives in turns:
        trainer.episodes.experts.action = known if drives else known * torch.nan
        advance(trainer, trainer.steps + 1)
    replay, rows = trainer.replay, slice(8, 8 + len(turns))
    assert replay.demonstrated[0, rows].tolist() == turns
    assert replay.was_planned[0, rows].nonzero().flatten().tolist() == [0, 5, 9, 11]


@pytest.mark.parametrize("keys", [{"first": 0, "takeover": 0.3}, {"length": 4}])
def test_a_run_resumed_among_them_is_the_run_itself(toys, driven, tmp_path, keys):
    whole, taken = driven(*LIMITS, **keys), 0
    for steps in (12, 33, 60):
        advance(whole, steps)
        taken += whole.episodes.experts.taken.any()
        resumed = toys.resume(toys.save(whole, tmp_path), driven(*LIMITS, weights=1, **keys))
        advance(whole, steps + 9)
        advance(resumed, steps + 9)
        assert torch.equal(resumed.replay.action, whole.replay.action)
        assert torch.equal(resumed.replay.demonstrated, whole.replay.demonstrated)
        assert torch.equal(resumed.learner.flat, whole.learner.flat)
        theirs, ours = resumed.episodes.experts, whole.episodes.experts
        assert (theirs.steps == ours.steps).all()
        torch.testing.assert_close(theirs.action, ours.action, rtol=0, atol=0, equal_nan=True)
    assert taken or "takeover" not in keys


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
