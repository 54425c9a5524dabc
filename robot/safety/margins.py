"""How much is left of each limit at one step, for a live view. Computed only on demand, so that a step costs little."""

from dataclasses import dataclass

import numpy as np

from robot.safety.limits import Limits
from robot.safety.watch import Checked
from robot.safety.workspace import Workspace


@dataclass(frozen=True)
class Margins:
    """Margins of the command `at` (D,), with rate `pace` (D,), `before` (D,) one step ago, and of the last reading.

    The limits are the configured ones: an arm that began outside has a negative margin until it has come in. A margin
    that cannot be known is NaN, as are `at` before the command begins and `reading` before the first one.
    """

    limits: Limits
    at: np.ndarray
    pace: np.ndarray
    before: np.ndarray
    reading: np.ndarray
    checked: Checked
    workspace: Workspace | None

    @property
    def position(self) -> np.ndarray:
        """Units (D,) to the nearer end of each joint's range."""
        return np.minimum(self.at - self.limits.column("low"), self.limits.column("high") - self.at)

    @property
    def rate(self) -> np.ndarray:
        """Units/s (D,) left below the rate limit."""
        return self.limits.column("rate") - np.abs(self.pace)

    @property
    def acceleration(self) -> np.ndarray:
        """Units/s^2 (D,) left below the acceleration limit."""
        used = np.abs(self.pace - self.before) / self.checked.dt if self.checked.dt > 0 else np.zeros_like(self.pace)
        return self.limits.column("acceleration") - used

    @property
    def step(self) -> np.ndarray:
        """Units (D,) by which the command could still move away from the measured position."""
        return self.limits.column("step") - np.abs(self.at - self.reading)

    @property
    def box_m(self) -> float:
        """Metres from the tip to the nearest face of its box; infinite without a box."""
        if self.workspace is None:
            return np.inf
        return self.workspace.margin(self.at) if np.isfinite(self.at).all() else np.nan

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds left of the reading's age, the goal's age, and the loop's time."""
        checked = self.checked
        return {"reading": checked.reading_margin_s, "goal": checked.goal_margin_s, "loop": checked.loop_margin_s}

    def least(self) -> dict[str, tuple[str, float]]:
        """Return, per kind of joint limit, the joint with the least margin and that margin as a fraction of the limit.

        1 means all of the limit is left; for the position, that is half the range.
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
            joint = int(np.argmin(left))  # NaN counts as the least
            found[kind] = (self.limits.names[joint], float(left[joint]))
        return found
