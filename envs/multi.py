"""Several tasks of one body as a single environment: each episode's seed chooses one of them."""

from collections.abc import Iterable

import gymnasium
import numpy as np

from envs.task_env import by_key
from policies.settings import QUANTITIES
from worldmodel.errors import UserError

CHOICE = 0x7A5C
"""Seed-sequence word that keeps the choice of a task independent of what the task draws from the same seed."""


class Multi(gymnasium.Wrapper):
    """One of several environments per episode; `info["task"]` names it.

    The seed chooses the task, uniformly, unless `fix` was called; the episode is otherwise identical to that task's own
    for that seed. `env`, and everything reached through it (`unwrapped`, rendering), belongs to the episode's task;
    `parts` are the environments of all tasks by name.
    """

    def __init__(self, parts: dict[str, gymnasium.Env]):
        """Combine `parts`, at least one environment by task name.

        Raises:
            ValueError: if their observations, actions or control rates differ; one line.
        """
        self.parts, self._names = parts, list(parts)
        self._task = self._names[0]
        super().__init__(parts[self._task])
        first = _facts(self.env)
        for name, env in parts.items():
            for what, value in _facts(env).items():
                if value != first[what]:
                    one, other = (" ".join(str(each).split()) for each in (first[what], value))
                    raise UserError(f"task.names: {self._task} and {name} have different {what}: {one}, {other}")
        limits = [env.metadata["episode_limit"] for env in parts.values()]
        self.metadata = {**self.env.metadata, "episode_limit": None if None in limits else max(limits)}
        units = [env.metadata[QUANTITIES] for env in parts.values()]
        common = {name: unit for name, unit in units[0].items() if all(name in each for each in units)}
        self.metadata[QUANTITIES] = common
        self._known = {name: [[*each].index(q) for q in common] for name, each in zip(parts, units, strict=True)}
        self._generator = np.random.default_rng()
        self._fixed: int | None = None

    def fix(self, number: int) -> None:
        """Use the same task for every episode from the next reset on: number `number` modulo the number of tasks."""
        self._fixed = number % len(self._names)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Choose a task by `seed` and begin an episode of it; without a seed, continue the last seed's sequence."""
        if seed is None:
            seed = int(self._generator.integers(2**32))
        else:
            self._generator = np.random.default_rng([seed, CHOICE, 1])
        chosen = self._fixed
        if chosen is None:
            chosen = int(np.random.default_rng([seed, CHOICE]).integers(len(self._names)))
        self._task = self._names[chosen]
        self.env = self.parts[self._task]
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._told(info)

    def step(self, action: np.ndarray):
        """Advance the episode's task by one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._told(info)

    def _told(self, info: dict) -> dict:
        """Add the task's name, and leave only the quantities that all tasks have."""
        return info | {"task": self._task, QUANTITIES: info[QUANTITIES][self._known[self._task]]}

    def close(self) -> None:
        """Close all environments."""
        for env in self.parts.values():
            env.close()


def _facts(env: gymnasium.Env) -> dict[str, object]:
    """Return what all tasks must have in common, by name."""
    return {**by_key(env).spaces, "actions": env.action_space, "control steps a second": env.metadata["render_fps"]}


def take_turns(envs: Iterable[gymnasium.Env], first: int = 0) -> None:
    """Fix the environments of an evaluation to the tasks in turn; `first` is the number of the first environment."""
    for number, env in enumerate(envs, first):
        env.get_wrapper_attr("fix")(number)
