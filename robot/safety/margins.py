"""How much is left of each limit at one step, for a live view. Computed only on demand, so that a step costs little."""

from dataclasses import dataclass

import numpy as np

from robot.safety.input_check import CheckedInput
from robot.safety.limits import Limits
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
    checked: CheckedInput
    workspace: Workspace | None

    @property
    def box_m(self) -> float:
        """Metres from the tip to the nearest face of its box; infinite without a box."""
        if self.workspace is None:
            return np.inf
        return self.workspace.margin(self.at) if np.isfinite(self.at).all() else np.nan

    def least(self) -> dict[str, tuple[str, float]]:
        """Return, per kind of joint limit, the joint with the least margin and that margin as a fraction of the limit.

        1 means all of the limit is left; for the position, that is half the range.
        """
        low, high = self.limits.column("low"), self.limits.column("high")
        change = np.abs(self.pace - self.before) / self.checked.dt if self.checked.dt > 0 else np.zeros_like(self.pace)
        left = {"position": np.minimum(self.at - low, high - self.at) / ((high - low) / 2)}
        for kind, used in (("rate", self.pace), ("acceleration", change), ("step", self.at - self.reading)):
            left[kind] = 1 - np.abs(used) / self.limits.column(kind)
        joints = {kind: int(np.argmin(shares)) for kind, shares in left.items()}  # NaN counts as the least
        return {kind: (self.limits.names[joint], float(left[kind][joint])) for kind, joint in joints.items()}
