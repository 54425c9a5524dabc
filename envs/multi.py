"""Several tasks of one body as a single environment: each episode's seed chooses one of them."""

from collections.abc import Iterable

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.errors import UserError

CHOICE = 0x7A5C
"""Seed-sequence word that keeps the choice of a task independent of what the task draws from the same seed."""


class Multi(gymnasium.Wrapper):
    """One of several environments per episode; `info["task"]` names it.

    The seed chooses the task, uniformly, unless `fix` was called; the episode is otherwise identical to that task's own
    for that seed. `env`, and everything reached through it (`unwrapped`, rendering), belongs to the episode's task.
    """

    def __init__(self, parts: dict[str, gymnasium.Env]):
        """Combine `parts`, at least one environment by task name.

        Raises:
            ValueError: if their observations, actions or control rates differ; one line.
        """
        self._names, self._parts = list(parts), list(parts.values())
        super().__init__(self._parts[0])
        for kind in ("observation_space", "action_space"):
            self._agree({name: getattr(env, kind) for name, env in parts.items()}, kind.split("_")[0] + "s")
        self._agree({name: env.metadata["render_fps"] for name, env in parts.items()}, "control steps a second")
        limits = [env.metadata["episode_limit"] for env in self._parts]
        self.metadata = {**self._parts[0].metadata, "episode_limit": None if None in limits else max(limits)}
        self._generator = np.random.default_rng()
        self._task = self._names[0]
        self._fixed: int | None = None

    def fix(self, number: int) -> None:
        """Use the same task for every episode from the next reset on: number `number` modulo the number of tasks."""
        self._fixed = number % len(self._parts)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Choose a task by `seed` and begin an episode of it; without a seed, continue the last seed's sequence."""
        if seed is None:
            seed = int(self._generator.integers(2**32))
        else:
            self._generator = np.random.default_rng([seed, CHOICE, 1])
        chosen = self._fixed
        if chosen is None:
            chosen = int(np.random.default_rng([seed, CHOICE]).integers(len(self._parts)))
        self.env, self._task = self._parts[chosen], self._names[chosen]
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"task": self._task}

    def step(self, action: np.ndarray):
        """Advance the episode's task by one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"task": self._task}

    def close(self) -> None:
        """Close all environments."""
        for env in self._parts:
            env.close()

    @property
    def sentence(self) -> list[str | None]:
        """The sentence that overrides each task's own, or None; setting it applies to all tasks. Needs language."""
        return [env.get_wrapper_attr("sentence") for env in self._parts]

    @sentence.setter
    def sentence(self, text: str | None) -> None:
        for env in self._parts:
            env.set_wrapper_attr("sentence", text)

    def say(self, sentences: dict[str, str]) -> None:
        """Override the sentence of each named task from its next reset on."""
        for name, env in zip(self._names, self._parts, strict=True):
            if name in sentences:
                env.set_wrapper_attr("sentence", sentences[name])

    @staticmethod
    def _agree(found: dict[str, object], what: str) -> None:
        (first, expected), *others = found.items()
        for name, value in others:
            if value != expected:
                one, other = (" ".join(str(each).split()) for each in _differing(expected, value))
                raise UserError(f"task.names: {first} and {name} have different {what}: {one}, {other}")


def _differing(one: object, other: object) -> tuple[object, object]:
    """Reduce two Dict spaces to the entries that differ; return anything else unchanged."""
    if not (isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict)):
        return one, other
    same = {key for key in one.keys() & other.keys() if one[key] == other[key]}
    left, right = ({key: part for key, part in space.items() if key not in same} for space in (one, other))
    return left, right


def take_turns(envs: Iterable[gymnasium.Env], first: int = 0) -> None:
    """Fix the environments of an evaluation to the tasks in turn; `first` is the number of the first environment."""
    for number, env in enumerate(envs, first):
        env.get_wrapper_attr("fix")(number)
