"""What stops an arm: faults between a goal and a command, and the signals that ask a program to end."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
type Handler = Callable[[int, FrameType | None], object] | int | None


class FaultKind(StrEnum):
    """Every reason for which the gate stops the arm."""

    CLOCK = "clock"  # the time given to a step is not a finite number, or is before the last one
    LATE = "late-loop"  # too long since the last step
    MISSING = "missing"  # no goal or no reading, or a joint is not in it
    SHAPE = "shape"  # not one number for each joint
    NOT_FINITE = "not-finite"
    STALE = "stale"  # too old
    ORDER = "out-of-order"  # older than the one before, or from the future
    OUTSIDE = "outside"  # the arm is too far outside its limits to start
    PUSHED = "pushed"  # the arm was moved away from its command faster than the command may follow
    STALLED = "stalled"  # a joint does not follow its command: held, blocked, or its servo has given up
    DRIVER = "driver"  # the robot's driver failed
    PLANNER = "planner"  # the planner is gone
    STUCK = "stuck"  # the agent sees no way on
    BLIND = "blind"  # no camera shows anything, and there is no other sense
    STOP = "stop"  # a stop was requested


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, a one-line message for people, and the time of the step that found it, in seconds."""

    kind: FaultKind
    message: str
    at: float

    def __str__(self):
        return f"{self.kind}: {self.message}"


class NotReleasable(ValueError):
    """The gate cannot be released yet; the message says what is still wrong."""


class RobotFault(RuntimeError):
    """The gate has stopped the robot; `fault` says why."""

    def __init__(self, fault: Fault):
        """Store the fault and use its text as the message."""
        super().__init__(str(fault))
        self.fault = fault


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; `number` is that signal."""

    def __init__(self, number: int):
        """Store the signal's number."""
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """From `listen` to `restore`, the first such signal raises Stopped in the main thread; later ones have no effect.

    An ignored SIGHUP, as under nohup, stays ignored; the other signals are always handled, since an arm is moving.
    While `held`, a signal waits: half a packet would leave the motors' bus unusable. Outside the main thread, where
    Python does not allow signal handlers, nothing changes.
    """

    def __init__(self):
        self._before: dict[int, Handler] = {}
        self._number: int | None = None
        self._depth, self._raised = 0, False

    def listen(self) -> None:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._number, self._raised = None, False
            numbers = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._received) for number in numbers}

    def restore(self) -> int | None:
        """Restore the previous handlers. Return the signal still deferred, if any; it is no longer raised."""
        for number, before in self._before.items():
            signal.signal(number, before)
        pending = None if self._raised else self._number
        self._before, self._number = {}, None
        return pending

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals until the block has ended, however it ends."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._raise()

    def _received(self, number: int, _frame) -> None:
        if self._number is None:
            self._number = number
        self._raise()

    def _raise(self) -> None:
        if self._number is not None and self._depth == 0 and not self._raised:
            self._raised = True
            raise Stopped(self._number)


@contextmanager
def handled(handler: Handler, numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Send the given signals to `handler` inside the block, except those that are ignored (SIGHUP under nohup)."""
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
