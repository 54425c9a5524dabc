"""Laws of success: an episode that is once where its task wants it has succeeded, whatever comes before or after."""

import functools
from itertools import pairwise
from types import SimpleNamespace

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from policies.agent import Agent
from policies.training.rollouts import Rollout, rollout, success_rates

STATE_KEY = "observation.state"


class Scripted(gymnasium.Env):
    """Succeeds at the steps that `script` says, ends after it, and then would always succeed, if asked."""

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, script: str):
        self.script, self.clock, self.episodes = script, 0, 0

    def reset(self, *, seed=None, options=None):
        self.clock, self.episodes = 0, self.episodes + 1
        return {STATE_KEY: np.zeros(3, np.float32)}, {"is_success": False}

    def step(self, action):
        self.clock += 1
        success = self.episodes > 1 or self.script[self.clock - 1] == "y"
        seen = {STATE_KEY: np.full(3, self.clock, np.float32)}
        return seen, 1.0, False, self.clock == len(self.script), {"is_success": success}


def vector(*scripts):
    return gymnasium.vector.SyncVectorEnv(
        [functools.partial(Scripted, script) for script in scripts],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )


class Still(Agent):
    """Does nothing."""

    def __init__(self):
        self.model = SimpleNamespace(senses={STATE_KEY: (3,)})

    def reset(self, ended):
        pass

    def act(self, observation, own):
        return torch.zeros(len(observation), 2)


def test_an_episode_succeeds_at_any_step_of_its_own():
    played = rollout(vector("nynn", "nn", "nnny", "nnn"), Still(), 0, 10)
    np.testing.assert_array_equal(played.lengths, [4, 2, 4, 3])
    np.testing.assert_array_equal(played.successes, [True, False, True, False])
    assert played.success_rate == 0.5


def test_where_the_task_does_not_tell_nobody_knows(toys):
    played = rollout(toys.slides(3, 3), Still(), 0, 10)
    assert played.successes is None
    assert played.success_rate is None
    assert success_rates(played, played) == ""


def test_what_is_said_are_both_rates():
    half, all_of_them = (Rollout(np.zeros(2), np.zeros(2, int), np.array(s)) for s in ([True, False], [True, True]))
    assert success_rates(half, all_of_them) == ", success 50%, policy alone 100%"


def test_a_training_episode_says_whether_it_succeeded_and_the_next_begins_anew(toys):
    class Alternating(Scripted):
        """Succeeds in every other episode, at its first step."""

        def step(self, action):
            seen, reward, terminated, truncated, _ = super().step(action)
            return seen, reward, terminated, truncated, {"is_success": self.clock == 1 and self.episodes % 2 == 1}

    env = gymnasium.vector.SyncVectorEnv(
        [functools.partial(Alternating, "nnn")], autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED
    )
    ends = [end.episode_success for end in toys.run(toys.trainer(env), 18)]
    assert len(ends) == 6
    assert {*ends} == {0, 1}
    assert all(one != other for one, other in pairwise(ends))
    assert [end.episode_success for end in toys.run(toys.trainer(toys.slides(3)), 6)] == [None, None]
