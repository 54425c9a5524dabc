"""Keeping a loop's rate, and telling by how much it was not kept."""

import time

from robot.running.ticks import LATE_S


class SimulatedTime:
    """The time of a simulated robot, which passes while it is commanded; for a loop there is nothing to wait for.

    Each look at the clock takes a tenth of a microsecond, so that no two moments are the same.
    """

    LOOK_S = 1e-7

    def __init__(self, robot):
        """`robot.time_s`: how long it has been commanded."""
        self._robot, self._looked = robot, 0.0

    def monotonic(self) -> float:
        """Seconds."""
        self._looked += self.LOOK_S
        return self._robot.time_s + self._looked

    def sleep(self, seconds: float) -> None:
        """Nothing."""


class Pace:
    """Ticks of `hz` on a `clock` with `monotonic` and `sleep`. A late tick is not made up for: the next is due a whole
    period after it. `ticks`, `late` (by more than LATE_S) and `seconds` count since `start`.
    """

    def __init__(self, hz: float, clock=time):
        self.hz, self.clock = hz, clock
        self.start()

    def start(self) -> None:
        """The first tick is now."""
        self.ticks, self.late, self.began = 1, 0, self.clock.monotonic()
        self._due = self._last = self.began

    def wait(self) -> None:
        """Until the next tick."""
        self._due += 1 / self.hz
        self.clock.sleep(max(0.0, self._due - self.clock.monotonic()))
        self._last = self.clock.monotonic()
        self.late += self._last - self._due > LATE_S
        self._due = max(self._due, self._last)
        self.ticks += 1

    @property
    def seconds(self) -> float:
        """From the first tick to the last."""
        return self._last - self.began

    @property
    def measured_hz(self) -> float:
        """The rate that was kept."""
        return (self.ticks - 1) / self.seconds if self.seconds > 0 else self.hz
