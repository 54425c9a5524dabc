"""An environment of one's own, and a wrapper: a mass on a rail, to be held at the middle.

semagram-train plugins=[docs/examples/own_environment.py] task=gym task.id=Rail-v0 "task.wrappers=[frugal]"
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from semagram import register


class Rail(gymnasium.Env):
    """Observes position and velocity; the action is a force."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begin anywhere, at rest."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-1, 1), 0.0])
        return self.state.astype(np.float32), {}

    def step(self, action):
        """Push for a twentieth of a second; the reward is highest in the middle."""
        self.state[1] += 0.05 * action[0]
        self.state[0] += 0.05 * self.state[1]
        return self.state.astype(np.float32), float(np.exp(-4 * self.state[0] ** 2)), False, False, {}


class Frugal(gymnasium.RewardWrapper):
    """Halves the reward."""

    def reward(self, reward):
        """Return half of it."""
        return reward / 2


gymnasium.register("Rail-v0", Rail, max_episode_steps=200)
register("wrapper", "frugal", Frugal)
