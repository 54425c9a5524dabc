"""Which observations and actions an agent can have here, and the one clear line about those it can't."""

import numpy as np
from gymnasium import spaces

from envs.settings import TaskConfig
from worldmodel.mistakes import Mistake

UNLIMITED = 1e10
"""From here on a bound is none: it is dm_control's word for an actuator without limits (lqr)."""


def labels(task: TaskConfig, space: spaces.Space, name: str = "") -> list[str]:
    """A name for each component of the flattened observation, or ValueError for one not supported."""
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
    """The environment's actions, a Box (A,), or ValueError for a space that is not supported.

    Where the suite sets no limit (lqr), [-1, 1]: with a cost of the action's square, nobody acts far from 0.
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
