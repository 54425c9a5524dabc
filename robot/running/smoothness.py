"""How smoothly an arm is commanded: the jerk of the targets sent, and their largest step."""

import math
from collections import deque

import numpy as np

from robot.loop import Step


class Smoothness:
    """Over all targets sent: their mean squared jerk in rad^2/s^6, and the largest step of a joint in rad.

    The jerk, averaged over joints and time, is what reaching hands minimise: Flash & Hogan 1985, eq. 1. It is the third
    difference of targets one control step apart, times the rate cubed, so the first three targets of an episode, or
    after a skipped tick, have none. `joints`: of a loop's steps, those that count.
    """

    def __init__(self, hz: float, joints: slice = slice(None)):
        self._hz, self._joints = hz, joints
        self._last: deque[np.ndarray] = deque(maxlen=4)
        self._squares, self._count = 0.0, 0
        self.largest_step = 0.0

    def begin(self) -> None:
        """Start an episode: the next target is its first."""
        self._last.clear()

    def __call__(self, step: Step) -> None:
        """Take in a step of a loop (a sink)."""
        if step.number == 0:
            self.begin()
        self.take(step.sent[self._joints], step.reading.steps)

    def take(self, target: np.ndarray, steps: int = 1) -> None:
        """Take in a target (D,), `steps` control steps after the last."""
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
        """In rad^2/s^6; NaN before there is any."""
        return self._squares / self._count if self._count else math.nan

    def summary(self) -> dict[str, float | None]:
        """Return largest_step_deg and mean_squared_jerk (rad^2/s^6), which is None if too few targets were sent."""
        jerk = round(self.mean_squared_jerk, 3) if self._count else None
        return {"largest_step_deg": round(math.degrees(self.largest_step), 3), "mean_squared_jerk": jerk}
