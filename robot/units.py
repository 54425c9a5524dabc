"""Joint angles in LeRobot's units for an SO-101, and in MuJoCo's."""

from dataclasses import dataclass

import numpy as np

from robot.safety.limits import RANGES

TICK_RAD = 2 * np.pi / 4095  # of an STS3215's encoder, as LeRobot counts them


@dataclass(frozen=True)
class Units:
    """Converts between angles in rad and LeRobot's values (6,); the gripper is last.

    `low` to `high` (6,): the joints' ranges in rad. The gripper goes from 0 (closed) to 100. The others are in degrees
    from the middle of their range, where LeRobot's calibration puts zero; with `degrees=False`, from -100 to 100 over
    it.
    """

    low: np.ndarray
    high: np.ndarray
    degrees: bool = True

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

    @property
    def _zero(self) -> np.ndarray:
        return np.append((self.low + self.high)[:-1] / 2, self.low[-1])

    @property
    def _unit(self) -> np.ndarray:
        """Radians per unit of LeRobot's values."""
        spans = self.high - self.low
        return np.append(np.full(5, np.pi / 180) if self.degrees else spans[:-1] / 200, spans[-1] / 100)


ARM = Units(*np.radians([*list(RANGES.values())[:-1], (-10.0, 100.0)]).T)
"""The SO-101's: the model's gripper opens from -10 to 100 degrees."""
