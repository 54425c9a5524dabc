"""Joint angles as LeRobot tells them for an SO-101, and as MuJoCo does."""

from dataclasses import dataclass

import numpy as np

TICK_RAD = 2 * np.pi / 4095  # of an STS3215's encoder, as LeRobot counts


@dataclass(frozen=True)
class Units:
    """LeRobot's values (6,) of joints whose ranges are `low` to `high` (6,) in rad; the gripper is last.

    The gripper goes from 0 (closed) to 100; the others are in degrees from the middle of their range, which is where
    LeRobot's calibration puts the zero, or with `degrees=False` from -100 to 100 over their range.
    """

    low: np.ndarray
    high: np.ndarray
    degrees: bool = True

    def from_rad(self, angles: np.ndarray) -> np.ndarray:
        """LeRobot's values (..., 6) of angles (..., 6) in rad."""
        return (angles - self._zero) / self._unit

    def to_rad(self, values: np.ndarray) -> np.ndarray:
        """Angles (..., 6) in rad of LeRobot's values (..., 6)."""
        return values * self._unit + self._zero

    def read(self, angles: np.ndarray) -> np.ndarray:
        """What the encoders say (6,): LeRobot's values to the nearest tick."""
        return self.from_rad(self.low + np.round((angles - self.low) / TICK_RAD) * TICK_RAD)

    @property
    def _zero(self) -> np.ndarray:
        return np.append((self.low + self.high)[:-1] / 2, self.low[-1])

    @property
    def _unit(self) -> np.ndarray:
        """Rad that one of LeRobot's units is."""
        spans = self.high - self.low
        return np.append(np.full(5, np.pi / 180) if self.degrees else spans[:-1] / 200, spans[-1] / 100)
