"""From an action in [-1, 1] to absolute joint targets: what goes over the wire, in simulation and on the arm."""

from dataclasses import dataclass

import numpy as np

from sim.so101.tasks import ABSOLUTE, TIED

SPEEDS = (2.5, 2.5, 2.5, 2.5, 2.5, 5.0)
"""The fastest that a tied target moves, in rad/s; the gripper is last. An STS3215 turns 4.7 rad/s without a load."""


@dataclass(frozen=True)
class Targets:
    """How actions (6,) become joint targets (6,) in rad, between `low` and `high`.

    `tied`: the target moves from the last one by the action times `step`, so that a curve begins where the last ended
    and no motion is faster than it. `absolute`: -1 is the lowest target of a joint and 1 the highest, wherever it is.
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    control: str = TIED

    @classmethod
    def at(cls, control_hz: float, low: np.ndarray, high: np.ndarray, control: str = TIED) -> "Targets":
        """Those of a loop at `control_hz`, none faster than SPEEDS."""
        return cls(low, high, np.array(SPEEDS) / control_hz, control)

    def next(self, last: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The target (6,) in rad after the target `last`, for an action (6,), which is clipped to [-1, 1]."""
        action = np.clip(np.asarray(action, np.float64), -1, 1)
        if self.control == ABSOLUTE:
            return self.low + (action + 1) / 2 * (self.high - self.low)
        return np.clip(last + action * self.step, self.low, self.high)

    def action(self, last: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The action (6,) in [-1, 1] whose `next` comes closest to `target`."""
        if self.control == ABSOLUTE:
            exact = (target - self.low) / (self.high - self.low) * 2 - 1
        else:
            exact = (target - last) / self.step
        return np.clip(exact, -1, 1)
