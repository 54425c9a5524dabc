"""Environment faults, caught where they occur and reported with the data that caused them."""

from typing import Any

import gymnasium
import numpy as np

from worldmodel.errors import MachineFault
from worldmodel.senses import STATE_KEY


class EnvironmentFault(ArithmeticError):
    """An environment returned a non-finite number, or its physics diverged.

    `action` (A,) is the action it was given (None at a reset); `observation` and `reward` are what it returned (None
    if it returned nothing).
    """

    def __init__(self, message: str, action=None, observation=None, reward=None):
        """Store the data that caused the fault beside the message."""
        super().__init__(message)
        self.action, self.observation, self.reward = action, observation, reward


class EnvironmentLost(MachineFault):
    """An environment's process exited or was killed; the rest of its vector is no longer usable."""


class FiniteGuard(gymnasium.Wrapper):
    """Raise EnvironmentFault for a non-finite state or reward, and ValueError for a non-finite action.

    `labels` names each component of `observation.state` (S,) after the environment's own keys; `divergence` lists
    the exceptions that the environment's physics raises when it diverges.
    """

    def __init__(self, env: gymnasium.Env, task: str, labels: list[str], divergence: tuple[type[Exception], ...]):
        """Guard `env`; messages refer to it as `task`."""
        super().__init__(env)
        self._task, self._labels, self._divergence = task, labels, divergence
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode and check its first observation."""
        self._step = 0
        try:
            observation, info = super().reset(seed=seed, options=options)
        except self._divergence as error:
            raise EnvironmentFault(f"{self._task}: the physics diverged at a reset: {error}") from error
        self._check(None, observation, 0.0)
        return observation, info

    def step(self, action: np.ndarray):
        """Advance one control step, checking the action before it and the observation and reward after it."""
        self._step += 1
        if not np.isfinite(action).all():
            raise ValueError(f"{self._task}, control step {self._step}: the action is not finite: {action}")
        try:
            observation, reward, terminated, truncated, info = super().step(action)
        except self._divergence as error:
            message = f"{self._task}, control step {self._step}: the physics diverged: {error}"
            raise EnvironmentFault(message, np.array(action)) from error
        self._check(action, observation, reward)
        return observation, reward, terminated, truncated, info

    def _check(self, action, observation, reward):
        where = f"{self._task}, control step {self._step}"
        finite = np.isfinite(observation[STATE_KEY])
        if not finite.all():
            index = int(np.argmin(finite))
            value = observation[STATE_KEY][index]
            message = f"{where}: observation.state[{index}] ({self._labels[index]}) is {value}"
        elif not np.isfinite(reward):
            message = f"{where}: the reward is {reward}"
        else:
            return
        kept = {key: value.copy() for key, value in observation.items()}
        raise EnvironmentFault(message, None if action is None else np.array(action), kept, reward)
