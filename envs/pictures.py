"""The pictures that are part of an environment's own observation, kept apart from its numbers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.mistakes import Mistake

if TYPE_CHECKING:
    from envs.settings import TaskConfig

CHANNELS = (1, 3)
GROUP = "pixels-"  # where LeRobot's environments have their cameras
ALONE = "image"
"""What a picture is called that is the whole observation."""


def pictures_in(space: spaces.Space, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys at which pictures, (H, W, channels) uint8, lie in an observation."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from pictures_in(part, (*keys, key))
    elif isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        yield keys


class Pictures(gymnasium.ObservationWrapper):
    """An environment without the pictures in its observation: `newest` has them by name, (H, W, 1 or 3) uint8.

    A name is the picture's key, or its keys joined by `-`. Where nothing else is left, the observation is a Box (0,).

    Raises:
        ValueError: a picture of another shape; one line.
    """

    def __init__(self, env: gymnasium.Env, task: "TaskConfig"):
        super().__init__(env)
        self._keys = {"-".join(keys).removeprefix(GROUP) or ALONE: keys for keys in pictures_in(env.observation_space)}
        self.shapes = {name: _at(env.observation_space, keys).shape for name, keys in self._keys.items()}
        for name, shape in self.shapes.items():
            if shape[2] not in CHANNELS:
                raise Mistake(f"{task.label}: its picture {name} is {shape}; supported: (height, width, 1 or 3)")
        self.newest: dict[str, np.ndarray] = {}
        self._rest = _without(env.observation_space)
        self.observation_space = self._rest or spaces.Box(0, 1, (0,), np.float32)

    def observation(self, observation):
        """The observation's numbers."""
        self.newest = {name: np.asarray(_at(observation, keys)) for name, keys in self._keys.items()}
        return np.zeros(0, np.float32) if self._rest is None else _numbers(observation, self._rest)


def _at(whole, keys: tuple[str, ...]):
    for key in keys:
        whole = whole[key]
    return whole


def _without(space: spaces.Space) -> spaces.Space | None:
    """A space without its pictures; None where nothing is left."""
    if not isinstance(space, spaces.Dict):
        return None if [*pictures_in(space)] else space
    parts = {key: rest for key, part in space.items() if (rest := _without(part)) is not None}
    return spaces.Dict(parts) if parts else None


def _numbers(observation, rest: spaces.Space):
    if not isinstance(rest, spaces.Dict):
        return observation
    return {key: _numbers(observation[key], part) for key, part in rest.items()}
