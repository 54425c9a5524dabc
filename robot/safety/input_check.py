"""Checks everything that reaches the gate before anything is computed: time, shape, values, age and order."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot.safety.faults import Fault, FaultKind
from robot.safety.limits import Limits

SOONEST_S, LONGEST_S = 1e-4, 1e3
"""Steps closer together than the first count as one: the command is repeated. Longer pauses count as the second."""


@dataclass(frozen=True)
class Stamped:
    """Values for the joints, as (D,) in order or by joint name, and when they were made, in the gate's seconds."""

    values: np.ndarray | Mapping[str, float]
    at: float


@dataclass(frozen=True)
class CheckedInput:
    """What of one step can be used: goal and reading (D,), each None if it cannot.

    `dt` is the time since the last step, 0 if there was none or the step came too soon to count. `fault` is the first
    problem found.
    """

    goal: np.ndarray | None
    reading: np.ndarray | None
    dt: float
    fault: Fault | None


class _Wrong(Exception):
    def __init__(self, kind: FaultKind, message: str):
        super().__init__(message)
        self.kind = kind


class InputCheck:
    """Checks step after step; remembers only the latest times it has seen."""

    def __init__(self, limits: Limits):
        self._limits, self._names = limits, limits.names
        self._last = -math.inf
        self.restart()

    def restart(self) -> None:
        """Forget the goals and readings seen; the next step may come late, but not before the last."""
        self._seen, self._paused = {"goal": -math.inf, "reading": -math.inf}, True

    def check(self, goal: Stamped | None, reading: Stamped | None, now: float) -> CheckedInput:
        """Return what of this step can be used. Never raises: whatever is wrong becomes its fault."""
        try:
            dt = self._elapsed(now)
        except _Wrong as wrong:
            return CheckedInput(None, None, 0.0, Fault(wrong.kind, str(wrong), self._last))
        faults: list[Fault] = []
        if not self._paused and now - self._last > self._limits.loop_s:
            late = f"{now - self._last:.3f} s since the last step, at most {self._limits.loop_s:g}"
            faults.append(Fault(FaultKind.LATE, late, now))
        if dt > 0 or not math.isfinite(self._last):
            self._last, self._paused = now, False
        found: dict[str, np.ndarray | None] = {}
        for what, given, age in (
            ("reading", reading, self._limits.observation_age_s),
            ("goal", goal, self._limits.goal_age_s),
        ):
            try:
                found[what] = self._numbers(what, given, now, age)
            except _Wrong as wrong:
                faults.append(Fault(wrong.kind, str(wrong), now))
                found[what] = None
        return CheckedInput(found["goal"], found["reading"], dt, faults[0] if faults else None)

    def _elapsed(self, now: float) -> float:
        if not _is_number(now):
            raise _Wrong(FaultKind.CLOCK, f"the step's time is {now!r}, not a finite number of seconds")
        if now < self._last:
            raise _Wrong(FaultKind.CLOCK, f"the step's time, {now:.6f} s, is before the last one, {self._last:.6f} s")
        dt = now - self._last if math.isfinite(self._last) else 0.0
        return min(dt, LONGEST_S) if dt >= SOONEST_S else 0.0

    def _numbers(self, what: str, given: Stamped | None, now: float, age_s: float) -> np.ndarray:
        """Return the values (D,). Raises _Wrong."""
        if given is None:
            raise _Wrong(FaultKind.MISSING, f"no {what}")
        if not _is_number(given.at):
            raise _Wrong(FaultKind.CLOCK, f"the {what}'s time is {given.at!r}, not a finite number of seconds")
        if given.at > now:
            raise _Wrong(FaultKind.ORDER, f"the {what} is from {given.at - now:.3f} s in the future")
        if given.at < self._seen[what]:
            raise _Wrong(FaultKind.ORDER, f"the {what} is {self._seen[what] - given.at:.3f} s older than the last one")
        self._seen[what] = given.at
        if now - given.at > age_s:
            raise _Wrong(FaultKind.STALE, f"the {what} is {now - given.at:.3f} s old, at most {age_s:g}")
        return self._vector(what, given.values)

    def _vector(self, what: str, values) -> np.ndarray:
        if isinstance(values, Mapping):
            for name in self._names:
                if name not in values:
                    raise _Wrong(FaultKind.MISSING, f"the {what} lacks the joint {name!r}")
            if len(values) > len(self._names):
                unknown = next(name for name in values if name not in self._names)
                raise _Wrong(FaultKind.SHAPE, f"the {what} has {unknown!r}; the joints are {', '.join(self._names)}")
            values = [values[name] for name in self._names]
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise _Wrong(FaultKind.SHAPE, f"the {what} is not one number for each joint ({error})") from error
        if array.dtype.kind not in "fiu" or array.shape != (len(self._names),):
            is_ = f"{array.dtype} {array.shape}"
            raise _Wrong(FaultKind.SHAPE, f"the {what} is {is_}, not one number for each of {len(self._names)} joints")
        with np.errstate(over="ignore"):
            array = array.astype(float)
        if not np.isfinite(array).all():
            at = int(np.flatnonzero(~np.isfinite(array))[0])
            raise _Wrong(FaultKind.NOT_FINITE, f"the {what} of {self._names[at]} is {array[at]}")
        return array


def _is_number(value) -> bool:
    most = sys.float_info.max
    return isinstance(value, float | int | np.floating | np.integer) and bool(-most <= value <= most)
