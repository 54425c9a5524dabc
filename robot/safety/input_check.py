"""Checks everything that reaches the gate before anything is computed: time, shape, values, age and order."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot.safety.limits import Limits
from robot.safety.stops import Fault, FaultKind

SOONEST_S, LONGEST_S = 1e-4, 1e3
"""Steps closer together than the first count as one: the command is repeated. Longer pauses count as the second."""


@dataclass(frozen=True)
class Stamped:
    """Values for the joints, as (D,) in order or by joint name, and when they were made, in the gate's seconds."""

    values: np.ndarray | Mapping[str, float]
    at: float


@dataclass(frozen=True)
class CheckedInput:
    """What of a step can be used, else None; `dt`: since the last step, 0 if none; `fault`: the first problem."""

    goal: np.ndarray | None
    reading: np.ndarray | None
    dt: float
    fault: Fault | None


class _Wrong(Exception):
    def __init__(self, kind: FaultKind, message: str):
        super().__init__(message)
        self.kind = kind


class InputCheck:
    """Checks step after step; remembers only the latest times."""

    def __init__(self, limits: Limits):
        self._limits, self._names = limits, limits.names
        self._last = -math.inf
        self.restart()

    def restart(self) -> None:
        """Forget the times of goals and readings; the next step may come late, but not before the last."""
        self._latest, self._paused = {"goal": -math.inf, "reading": -math.inf}, True

    def check(self, goal: Stamped | None, reading: Stamped | None, now: float) -> CheckedInput:
        """Return what of this step can be used. Never raises: whatever is wrong becomes its fault."""
        try:
            dt = self._elapsed(now)
        except _Wrong as wrong:
            return CheckedInput(None, None, 0.0, Fault(wrong.kind, str(wrong), self._last))
        limits, faults = self._limits, list[Fault]()
        if not self._paused and now - self._last > limits.loop_s:
            late = f"{now - self._last:.3f} s since the last step, at most {limits.loop_s:g}"
            faults.append(Fault(FaultKind.LATE, late, now))
        if dt > 0 or not math.isfinite(self._last):
            self._last, self._paused = now, False
        usable: dict[str, np.ndarray | None] = {"goal": None, "reading": None}
        for what, stamped, age in (("reading", reading, limits.observation_age_s), ("goal", goal, limits.goal_age_s)):
            try:
                usable[what] = self._numbers(what, stamped, now, age)
            except _Wrong as wrong:
                faults.append(Fault(wrong.kind, str(wrong), now))
        return CheckedInput(**usable, dt=dt, fault=faults[0] if faults else None)

    def _elapsed(self, now: float) -> float:
        if not _is_number(now):
            raise _Wrong(FaultKind.CLOCK, f"the step's time is {now!r}, not a finite number of seconds")
        if now < self._last:
            raise _Wrong(FaultKind.CLOCK, f"the step's time, {now:.6f} s, is before the last one, {self._last:.6f} s")
        dt = now - self._last if math.isfinite(self._last) else 0.0
        return min(dt, LONGEST_S) if dt >= SOONEST_S else 0.0

    def _numbers(self, what: str, stamped: Stamped | None, now: float, age_s: float) -> np.ndarray:
        """Return the values (D,). Raises _Wrong."""
        if stamped is None:
            raise _Wrong(FaultKind.MISSING, f"no {what}")
        at, latest = stamped.at, self._latest[what]
        if not _is_number(at):
            raise _Wrong(FaultKind.CLOCK, f"the {what}'s time is {at!r}, not a finite number of seconds")
        if at > now:
            raise _Wrong(FaultKind.ORDER, f"the {what} is from {at - now:.3f} s in the future")
        if at < latest:
            raise _Wrong(FaultKind.ORDER, f"the {what} is {latest - at:.3f} s older than the last one")
        self._latest[what] = at
        if now - at > age_s:
            raise _Wrong(FaultKind.STALE, f"the {what} is {now - at:.3f} s old, at most {age_s:g}")
        return self._vector(what, stamped.values)

    def _vector(self, what: str, values) -> np.ndarray:
        names = self._names
        if isinstance(values, Mapping):
            if missing := [name for name in names if name not in values]:
                raise _Wrong(FaultKind.MISSING, f"the {what} lacks the joint {missing[0]!r}")
            if unknown := [name for name in values if name not in names]:
                raise _Wrong(FaultKind.SHAPE, f"the {what} has {unknown[0]!r}; the joints are {', '.join(names)}")
            values = [values[name] for name in names]
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise _Wrong(FaultKind.SHAPE, f"the {what} is not one number for each joint ({error})") from error
        if array.dtype.kind not in "fiu" or array.shape != (len(names),):
            is_ = f"{array.dtype} {array.shape}"
            raise _Wrong(FaultKind.SHAPE, f"the {what} is {is_}, not one number for each of {len(names)} joints")
        with np.errstate(over="ignore"):
            array = array.astype(float)
        if not np.isfinite(array).all():
            at = int(np.flatnonzero(~np.isfinite(array))[0])
            raise _Wrong(FaultKind.NOT_FINITE, f"the {what} of {names[at]} is {array[at]}")
        return array


def _is_number(value) -> bool:
    most = sys.float_info.max
    return isinstance(value, float | int | np.floating | np.integer) and bool(-most <= value <= most)
