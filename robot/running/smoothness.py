"""How smoothly an arm is commanded: the jerk of what is sent, and its largest step."""

import math
from collections import deque

import numpy as np


class Smoothness:
    """Of all targets sent, a control step apart: the mean square of their jerk over joints and time, in rad^2/s^6, and
    the largest step of a joint, in rad. The jerk is what reaching hands keep small: Flash & Hogan 1985, eq. 1.

    It is the third difference times the rate cubed, so no episode's first three targets, nor those after a moment that
    was left out, have one.
    """

    def __init__(self, hz: float):
        self._hz = hz
        self._last: deque[np.ndarray] = deque(maxlen=4)
        self._squares, self._count = 0.0, 0
        self.largest_step = 0.0

    def begin(self) -> None:
        """The next target is an episode's first."""
        self._last.clear()

    def take(self, target: np.ndarray, steps: int = 1) -> None:
        """Take in a target (D,), so many control steps after the last."""
        if steps > 1:
            self._last.clear()
        self._last.append(target)
        if len(self._last) > 1:
            self.largest_step = max(self.largest_step, float(np.abs(target - self._last[-2]).max()))
        if len(self._last) == self._last.maxlen:
            jerk = np.diff(self._last, 3, axis=0) * self._hz**3
            self._squares, self._count = self._squares + float(np.square(jerk).mean()), self._count + 1

    @property
    def mean_squared_jerk(self) -> float:
        """In rad^2/s^6; nan before there is one."""
        return self._squares / self._count if self._count else math.nan

    def summary(self) -> dict[str, float | None]:
        """largest_step_deg, mean_squared_jerk (rad^2/s^6); None where too little was sent."""
        jerk = round(self.mean_squared_jerk, 3) if self._count else None
        return {"largest_step_deg": round(math.degrees(self.largest_step), 3), "mean_squared_jerk": jerk}
