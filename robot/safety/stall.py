"""Stall detection: a joint that is held, blocked or limp does not follow its command, and a pulling servo burns out."""

import numpy as np

from robot.safety.faults import Fault, FaultKind
from robot.safety.limits import Limits

STILL = 0.25
"""A joint has moved once it has travelled this fraction of the allowed command error (`JointLimits.stall`)."""


class Stall:
    """Accumulates, per joint, the time for which it has not moved while its command was too far away.

    While the command is near, the time counts down, so that a goal that oscillates is detected as well.
    """

    def __init__(self, limits: Limits):
        self._limits, self._off = limits, limits.column("stall")
        self._place: np.ndarray = np.zeros(len(limits.names))
        self._for: np.ndarray = self._place  # seconds

    def begin(self, reading: np.ndarray) -> None:
        """Start with the joints (D,) at `reading` and no history."""
        self._place, self._for = reading, np.zeros(len(reading))

    def check(self, command: np.ndarray, reading: np.ndarray, dt: float, now: float) -> Fault | None:
        """Take in a step of `dt` seconds with `command` (D,) and `reading` (D,); return the fault if a joint stalls."""
        moved = np.abs(reading - self._place) > STILL * self._off
        off = np.abs(command - reading) > self._off
        self._for = np.where(moved, 0.0, np.maximum(self._for + np.where(off, dt, -dt), 0.0))
        self._place = np.where(moved, reading, self._place)
        joint = int(np.argmax(self._for))
        if self._for[joint] < self._limits.stall_s:
            return None
        return Fault(
            FaultKind.STALLED,
            f"{self._limits.names[joint]} does not follow: it stays at {reading[joint]:.1f}, its command is at "
            f"{command[joint]:.1f}; is it held, or in the way of something?",
            now,
        )
