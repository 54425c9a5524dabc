"""Faults between a goal and a command: their kind, a one-line message, and the time."""

from dataclasses import dataclass
from enum import StrEnum


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
    BLIND = "blind"  # no camera shows anything, and there is no other sense
    STOP = "stop"  # a stop was requested


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, a one-line message for people, and the time of the step that found it, in seconds."""

    kind: FaultKind
    message: str
    at: float

    def __str__(self):
        """Return the kind and the message."""
        return f"{self.kind}: {self.message}"


TRYING = "while trying to "
"""Prefix of the note on an error that names the action that failed with it."""


def in_one_line(error: BaseException) -> str:
    """Return one line on what ended a loop, and what could not be done after that.

    The latter is read from the notes on the error, or on the errors of a group.
    """
    errors = [error, *getattr(error, "exceptions", ())]
    notes = [note for each in errors for note in getattr(each, "__notes__", ()) if note.startswith(TRYING)]
    undone = dict.fromkeys(note.removeprefix(TRYING).partition(":")[0] for note in notes)
    first = errors[isinstance(error, BaseExceptionGroup)]
    line = " ".join(str(first).split()) or type(first).__name__
    return f"{line}; not done: {', '.join(undone)}" if undone else line


class NotReleasable(ValueError):
    """The gate cannot be released yet; the message says what is still wrong."""


class RobotFault(RuntimeError):
    """The gate has stopped the robot; `fault` says why."""

    def __init__(self, fault: Fault):
        """Store the fault and use its text as the message."""
        super().__init__(str(fault))
        self.fault = fault
