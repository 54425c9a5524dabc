"""What can be wrong between a goal and a command: a kind, one line that says it, and when."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """Every reason for which the gate stops the arm."""

    CLOCK = "clock"  # the time given to a step is not a number, or is before the last one
    LATE = "late-loop"  # too long since the last step
    MISSING = "missing"  # no goal or no reading, or a joint is not in it
    SHAPE = "shape"  # not one number for each joint
    NOT_FINITE = "not-finite"
    STALE = "stale"  # too old
    ORDER = "out-of-order"  # older than the one before, or from the future
    OUTSIDE = "outside"  # the arm is too far outside its limits to begin
    PUSHED = "pushed"  # the arm was moved away from its command faster than the command may follow
    STALLED = "stalled"  # a joint does not follow its command: held, blocked, or its servo has given up
    DRIVER = "driver"  # the robot's driver failed
    PLANNER = "planner"  # nobody plans any more
    BLIND = "blind"  # no camera shows anything, and there is no other sense
    STOP = "stop"  # asked to stop


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, one line for a person, and the time of the step that found it, in seconds."""

    kind: FaultKind
    message: str
    at: float

    def __str__(self):
        """The kind and the line."""
        return f"{self.kind}: {self.message}"


TRYING = "while trying to "
"""How a note on an error begins that says what failed with it."""


def in_one_line(error: BaseException) -> str:
    """What ended a loop, and what could not be done after that (the notes on it, or on a group's errors)."""
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
        """Keep the fault with its line."""
        super().__init__(str(fault))
        self.fault = fault
