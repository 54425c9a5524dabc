"""An environment's spaces: which are supported, and the images in an observation, apart from its numbers."""

from collections.abc import Iterator

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.settings import TaskConfig
from worldmodel.errors import UserError

UNLIMITED = 1e10
"""Bounds of this magnitude count as unlimited: dm_control uses it for actuators without limits (lqr)."""


def by_key(env: gymnasium.Env) -> spaces.Dict:
    """Return the observation space of an environment that `envs.make` created, a Dict."""
    assert isinstance(env.observation_space, spaces.Dict)
    return env.observation_space


def component_names(task: TaskConfig, space: spaces.Space, name: str = "") -> list[str]:
    """Name each component of the flattened observation. Raises ValueError for an unsupported space."""
    if isinstance(space, spaces.Dict):
        return [label for key, part in space.items() for label in component_names(task, part, f"{name}{key}/")]
    name = name.rstrip("/")
    if not isinstance(space, spaces.Box):
        where = f" {name}" if name else ""
        raise UserError(
            f"{task.label}: its observation{where} is {space}; supported: a Box of numbers, or a Dict of them"
        )
    return [name + "".join(f"[{i}]" for i in index) for index in np.ndindex(space.shape)]


def action_box(task: TaskConfig, space: spaces.Space) -> spaces.Box:
    """Return the action space, a Box (A,). Raises ValueError for an unsupported space.

    Where the suite sets no limits (lqr), use [-1, 1]: its cost is quadratic in the action, so good actions are small.
    """
    supported = "supported: a Box of one dimension with finite bounds (continuous control)"
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 1:
        raise UserError(f"{task.label}: its actions are {space}; {supported}")
    unlimited = not (np.abs([space.low, space.high]) < UNLIMITED).all()
    if unlimited and task.name != "gym":
        return spaces.Box(-1.0, 1.0, space.shape, space.dtype)
    if unlimited or np.any(space.low >= space.high):
        raise UserError(f"{task.label}: its actions are {space}; {supported}")
    return space


CHANNELS = (1, 3)
GROUP = "pixels-"  # where LeRobot's environments have their cameras
ALONE = "image"
"""Name of an image that is the whole observation."""


def pictures_in(space: spaces.Space, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of keys to each image, (H, W, channels) uint8, in an observation space."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from pictures_in(part, (*keys, key))
    elif isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        yield keys


class Pictures(gymnasium.ObservationWrapper):
    """Remove the images from the observation and keep the latest in `newest`, by name, (H, W, 1 or 3) uint8.

    A name is the image's key, or its nested keys joined by `-`. If nothing else is left, the observation is a Box (0,).

    Raises:
        ValueError: for an image with another number of channels; one line.
    """

    def __init__(self, env: gymnasium.Env, task: TaskConfig):
        super().__init__(env)
        self._keys = {"-".join(keys).removeprefix(GROUP) or ALONE: keys for keys in pictures_in(env.observation_space)}
        self.shapes = {name: _at(env.observation_space, keys).shape for name, keys in self._keys.items()}
        for name, shape in self.shapes.items():
            if shape[2] not in CHANNELS:
                raise UserError(f"{task.label}: its picture {name} is {shape}; supported: (height, width, 1 or 3)")
        self.newest: dict[str, np.ndarray] = {}
        self._rest = _without(env.observation_space)
        self.observation_space = self._rest or spaces.Box(0, 1, (0,), np.float32)

    def observation(self, observation):
        """Store the images in `newest` and return the rest of the observation."""
        self.newest = {name: np.asarray(_at(observation, keys)) for name, keys in self._keys.items()}
        return np.zeros(0, np.float32) if self._rest is None else _numbers(observation, self._rest)


def _at(whole, keys: tuple[str, ...]):
    for key in keys:
        whole = whole[key]
    return whole


def _without(space: spaces.Space) -> spaces.Space | None:
    """Return the space without its images, or None if nothing is left."""
    if not isinstance(space, spaces.Dict):
        return None if [*pictures_in(space)] else space
    parts = {key: rest for key, part in space.items() if (rest := _without(part)) is not None}
    return spaces.Dict(parts) if parts else None


def _numbers(observation, rest: spaces.Space):
    if not isinstance(rest, spaces.Dict):
        return observation
    return {key: _numbers(observation[key], part) for key, part in rest.items()}
