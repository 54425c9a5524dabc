"""A loop's timing: ticks at fixed times of the clock, so that no delay accumulates, how late each began, priority."""

import gc
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

SPIN_S = 1e-3  # the end of a wait, spent polling the clock, since the system wakes a sleeping process late
LATE_S = 5e-3  # a tick that begins later than this is counted as late
ORDINARY = "ordinary"  # the priority that a process has by itself


class Clock(Protocol):
    """What a loop takes its time from: the module `time`, or a simulation."""

    def monotonic(self) -> float:
        """Return the time in seconds, which never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Return once that much time has passed, or at once if only what the loop does lets it pass."""


class SimulatedTime:
    """The simulated robot's clock, which advances as it is commanded; by 0.1 us a query, so no times are equal."""

    LOOK_S = 1e-7

    def __init__(self, robot):
        """Follow `robot.time_s`, the simulated time so far."""
        self._robot, self._at, self._looked = robot, 0.0, 0.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        self._looked = self.LOOK_S + (self._looked if self._robot.time_s == self._at else 0.0)
        self._at = self._robot.time_s
        return self._at + self._looked

    def sleep(self, seconds: float) -> None:
        """Return at once: simulated time passes only with commands."""


@dataclass
class Ticks:
    """Ticks due at `start + k / hz`; one whose time has passed is skipped, but for the last of a run."""

    hz: float
    clock: Clock = time
    late_s: list[float] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0  # from the first tick to the last, without pauses between runs
    _count: int = 0
    _last: deque[float] = field(default_factory=deque)

    def run(self, count: int) -> Iterator[int]:
        """Yield k = 0, 1, ... when each tick is due, for `count` ticks from now on, skipped ones included."""
        start, k = self.clock.monotonic(), 0
        self._last = deque(maxlen=round(self.hz) + 1)
        while k < count:
            due = start + k / self.hz
            wait = due - self.clock.monotonic()
            if wait > SPIN_S:
                self.clock.sleep(wait - SPIN_S)
            while (now := self.clock.monotonic()) < due:
                pass
            self.late_s.append(now - due)
            self.seconds += now - (self._last[-1] if self._last else start)
            self._last.append(now)
            self._count += k > 0
            yield k
            behind = int((self.clock.monotonic() - start) * self.hz)  # the newest tick whose time has passed
            following = max(k + 1, min(behind, count - 1))
            self.skipped += following - (k + 1)
            k = following

    @property
    def late(self) -> int:
        """Number of ticks that were late by more than LATE_S."""
        return sum(late > LATE_S for late in self.late_s)

    @property
    def passed(self) -> int:
        """Number of ticks whose time has passed, skipped ones included."""
        return len(self.late_s) + self.skipped

    @property
    def rate_hz(self) -> float:
        """Ticks per second, over the last second; NaN before there are two."""
        span = self._last[-1] - self._last[0] if len(self._last) > 1 else 0.0
        return (len(self._last) - 1) / span if span else math.nan

    @property
    def mean_hz(self) -> float | None:
        """Ticks per second, over all runs; None without any."""
        return round(self._count / self.seconds, 3) if self.seconds else None

    def summary(self) -> dict[str, float | int | None]:
        """Return counts of ticks, late ones (LATE_S) and skipped ones, and jitter in ms, None without a tick."""
        p50, p99, most = percentiles([1000 * late for late in self.late_s], 50, 99, 100)
        return {
            "ticks": len(self.late_s),
            "late_ticks": self.late,
            "skipped_ticks": self.skipped,
            "p50_jitter_ms": p50,
            "p99_jitter_ms": p99,
            "max_jitter_ms": most,
        }


def percentiles(values: Sequence[float], *shares: float) -> list[float | None]:
    """Return these percentiles of `values`, to three decimals; None each without any."""
    return [round(float(v), 3) for v in np.percentile(values, shares)] if values else [None] * len(shares)


@contextmanager
def no_collection():
    """Disable Python's garbage collector inside the block, after one collection; existing objects are frozen."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def hurry() -> str:
    """Raise this thread's priority, but not that of what it starts later. Returns what was granted, in words."""
    if not hasattr(os, "sched_setscheduler"):
        return ORDINARY
    for name, ask in (
        ("real-time", lambda: os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))),
        ("raised", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)),
    ):
        try:
            ask()
        except PermissionError:
            continue
        return name
    return f"{ORDINARY} (the user may not ask for more)"


@contextmanager
def same_priority() -> Iterator[None]:
    """Give back what priority this thread gets within the block: of a privileged user, SVT-AV1 takes the highest.

    The flag that threads started by this one are ordinary (SCHED_RESET_ON_FORK) stays set afterwards: only a privileged
    user may clear it.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    scheduler, parameters, nice = os.sched_getscheduler(0), os.sched_getparam(0), os.getpriority(os.PRIO_PROCESS, 0)
    try:
        yield
    finally:
        kept = os.sched_getscheduler(0) & os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, scheduler | kept, parameters)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
