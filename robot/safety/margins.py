"""How much is left of each limit at one step, for a live view. Computed when asked, so that a step costs little."""

from dataclasses import dataclass

import numpy as np

from robot.safety.limits import Limits
from robot.safety.watch import Checked
from robot.safety.workspace import Workspace


@dataclass(frozen=True)
class Margins:
    """What is left, for the command `at` (D,) moving at `pace` (D,), `before` (D,) one step ago, and the last reading.

    The limits are those configured: an arm that began outside has a negative margin until it has come in. A margin that
    cannot be known, such as to a reading that never came, is NaN.
    """

    limits: Limits
    at: np.ndarray | None
    pace: np.ndarray
    before: np.ndarray
    reading: np.ndarray | None
    checked: Checked
    workspace: Workspace | None

    @property
    def position(self) -> np.ndarray:
        """Units (D,) to the nearer end of each joint's range."""
        if self.at is None:
            return np.full(len(self.limits.names), np.nan)
        return np.minimum(self.at - self.limits.column("low"), self.limits.column("high") - self.at)

    @property
    def rate(self) -> np.ndarray:
        """Units/s (D,)."""
        return self.limits.column("rate") - np.abs(self.pace)

    @property
    def acceleration(self) -> np.ndarray:
        """Units/s^2 (D,)."""
        used = np.abs(self.pace - self.before) / self.checked.dt if self.checked.dt > 0 else np.zeros_like(self.pace)
        return self.limits.column("acceleration") - used

    @property
    def step(self) -> np.ndarray:
        """Units (D,) that the command could still be further from the measured position."""
        if self.at is None or self.reading is None:
            return np.full(len(self.limits.names), np.nan)
        return self.limits.column("step") - np.abs(self.at - self.reading)

    @property
    def box_m(self) -> float:
        """Metres from the tip to the nearest face of its box; infinite without a box."""
        if self.workspace is None:
            return np.inf
        return np.nan if self.at is None else self.workspace.margin(self.at)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds left of the reading's age, of the goal's, and of the loop's time."""
        checked = self.checked
        return {"reading": checked.reading_margin_s, "goal": checked.goal_margin_s, "loop": checked.loop_margin_s}

    def least(self) -> dict[str, tuple[str, float]]:
        """For each kind of limit of the joints, the joint with the least left, as a part of the limit (1: all of it).

        For the position, all of it is half the range.
        """
        half = (self.limits.column("high") - self.limits.column("low")) / 2
        parts = {
            "position": self.position / half,
            "rate": self.rate / self.limits.column("rate"),
            "acceleration": self.acceleration / self.limits.column("acceleration"),
            "step": self.step / self.limits.column("step"),
        }
        found = {}
        for kind, left in parts.items():
            joint = int(np.argmin(left))  # a NaN comes first
            found[kind] = (self.limits.names[joint], float(left[joint]))
        return found
