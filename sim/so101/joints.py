"""The SO-101's joints, and the conversion of actions in [-1, 1] to the absolute joint targets that any arm is sent."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.so101.tasks import ABSOLUTE, DELTA

GRIPPER = "gripper"
TURNS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""The joints that move the arm; the gripper moves only a finger."""
JOINTS = (*TURNS, GRIPPER)  # all joints, from the base outwards, as named by LeRobot and by every model of the arm
SPEEDS = (2.5, 2.5, 2.5, 2.5, 2.5, 5.0)
"""Maximum speeds of delta targets, in rad/s; the gripper is last. An STS3215 turns at 4.7 rad/s without load."""

COUNTS = 4095  # the highest count of an STS3215's encoder, a full turn
TICK_RAD = 2 * np.pi / COUNTS


@dataclass(frozen=True)
class Targets:
    """Conversion of actions (6,) to joint targets (6,) in rad, between `low` and `high`.

    `delta`: the target moves from the last one by the action times `step` (6,), so that a curve begins where the last
    one ended and no motion exceeds `step` per control step. `absolute`: -1 is a joint's lowest target and 1 its
    highest, regardless of the last one.
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    control: str = DELTA

    @classmethod
    def at(cls, control_hz: float, low: np.ndarray, high: np.ndarray, control: str = DELTA) -> "Targets":
        """Create the conversion for a loop at `control_hz`; delta targets are no faster than SPEEDS."""
        return cls(low, high, np.array(SPEEDS) / control_hz, control)

    def next(self, last: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return the target (6,) in rad that follows `last` (6,) for an action (6,), which is clipped to [-1, 1]."""
        action = np.clip(np.asarray(action, np.float64), -1, 1)
        if self.control == ABSOLUTE:
            return self.low + (action + 1) / 2 * (self.high - self.low)
        return np.clip(last + action * self.step, self.low, self.high)

    def action(self, last: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the action (6,) in [-1, 1] whose `next` comes closest to `target`."""
        if self.control == ABSOLUTE:
            exact = (target - self.low) / (self.high - self.low) * 2 - 1
        else:
            exact = (target - last) / self.step
        return np.clip(exact, -1, 1)


@dataclass(frozen=True)
class Units:
    """Converts between angles in rad and LeRobot's values (6,); the gripper is last.

    `low` to `high` (6,): the joints' ranges in rad. The gripper goes from 0 (closed) to 100. The others are in degrees
    from the middle of their range, where LeRobot's calibration puts zero.
    """

    low: np.ndarray
    high: np.ndarray

    def from_rad(self, angles: np.ndarray) -> np.ndarray:
        """Convert angles (..., 6) in rad to LeRobot's values (..., 6)."""
        return (angles - self._zero) / self._unit

    def to_rad(self, values: np.ndarray) -> np.ndarray:
        """Convert LeRobot's values (..., 6) to angles (..., 6) in rad."""
        return values * self._unit + self._zero

    def spans(self, values: np.ndarray) -> np.ndarray:
        """Convert differences or rates (..., 6) in LeRobot's units to rad, or rad/s."""
        return values * self._unit

    def read(self, angles: np.ndarray) -> np.ndarray:
        """Return LeRobot's values (6,) as the encoders report them, rounded to the nearest tick."""
        return self.from_rad(self.low + np.round((angles - self.low) / TICK_RAD) * TICK_RAD)

    def shares(self, angles: np.ndarray) -> np.ndarray:
        """Convert angles (..., 6) in rad to shares of the joints' ranges, from -1 to 1."""
        return 2 * (angles - self.low) / (self.high - self.low) - 1

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Convert shares (..., 6) of the joints' ranges, from -1 to 1, to angles in rad."""
        return self.low + (shares + 1) / 2 * (self.high - self.low)

    @cached_property
    def _zero(self) -> np.ndarray:
        return np.append((self.low + self.high)[:-1] / 2, self.low[-1])

    @cached_property
    def _unit(self) -> np.ndarray:
        """Radians per unit of LeRobot's values."""
        return np.append(np.full(5, np.pi / 180), (self.high - self.low)[-1] / 100)
