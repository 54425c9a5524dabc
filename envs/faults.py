"""A fault of an environment: caught where it appears, named, and kept with the state that caused it."""

from typing import Any

import gymnasium
import numpy as np

from worldmodel.mistakes import MachineFault
from worldmodel.senses import STATE_KEY


class EnvironmentFault(ArithmeticError):
    """An environment gave a number that is not finite, or its physics diverged.

    `action` (A,) is what it was given (None at a reset), `observation` and `reward` what it gave (None where
    nothing).
    """

    def __init__(self, message: str, action=None, observation=None, reward=None):
        """Keep the state with the message."""
        super().__init__(message)
        self.action, self.observation, self.reward = action, observation, reward


class EnvironmentLost(MachineFault):
    """The process of an environment ended by itself, or was killed; the others of its vector are of no use."""


class FiniteGuard(gymnasium.Wrapper):
    """Raises EnvironmentFault for an observation or reward that is not finite, ValueError for such an action.

    `labels` names each component of `observation.state` (S,) after the environment's own keys; `divergence`
    is what the environment's physics raises when it diverges.
    """

    def __init__(self, env: gymnasium.Env, task: str, labels: list[str], divergence: tuple[type[Exception], ...]):
        """Guard `env`; `task` is what messages call it."""
        super().__init__(env)
        self._task, self._labels, self._divergence = task, labels, divergence
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Reset, and check the first observation."""
        self._step = 0
        try:
            observation, info = super().reset(seed=seed, options=options)
        except self._divergence as error:
            raise EnvironmentFault(f"{self._task}: the physics diverged at a reset: {error}") from error
        self._check(None, observation, 0.0)
        return observation, info

    def step(self, action: np.ndarray):
        """One control step, checked before (the action) and after (the observation, the reward)."""
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
