"""Check which observation and action spaces are supported, with a one-line error for the rest."""

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.settings import TaskConfig
from worldmodel.mistakes import Mistake

UNLIMITED = 1e10
"""Bounds of this magnitude count as unlimited: dm_control uses it for actuators without limits (lqr)."""


def by_key(env: gymnasium.Env) -> spaces.Dict:
    """Return the observation space of an environment that `envs.make` created, a Dict."""
    assert isinstance(env.observation_space, spaces.Dict)
    return env.observation_space


def labels(task: TaskConfig, space: spaces.Space, name: str = "") -> list[str]:
    """Name each component of the flattened observation. Raises ValueError for an unsupported space."""
    if isinstance(space, spaces.Dict):
        return [label for key, part in space.items() for label in labels(task, part, f"{name}{key}/")]
    name = name.rstrip("/")
    if not isinstance(space, spaces.Box):
        where = f" {name}" if name else ""
        raise Mistake(
            f"{task.label}: its observation{where} is {space}; supported: a Box of numbers, or a Dict of them"
        )
    return [name + "".join(f"[{i}]" for i in index) for index in np.ndindex(space.shape)]


def actions(task: TaskConfig, space: spaces.Space) -> spaces.Box:
    """Return the action space, a Box (A,). Raises ValueError for an unsupported space.

    Where the suite sets no limits (lqr), use [-1, 1]: its cost is quadratic in the action, so good actions are small.
    """
    supported = "supported: a Box of one dimension with finite bounds (continuous control)"
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 1:
        raise Mistake(f"{task.label}: its actions are {space}; {supported}")
    unlimited = not (np.abs([space.low, space.high]) < UNLIMITED).all()
    if unlimited and task.name != "gym":
        return spaces.Box(-1.0, 1.0, space.shape, space.dtype)
    if unlimited or np.any(space.low >= space.high):
        raise Mistake(f"{task.label}: its actions are {space}; {supported}")
    return space
