"""How a command ends: one JSON line for a result, or one line and an exit code for what went wrong."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from robot.safety.faults import in_one_line
from worldmodel.mistakes import MachineFault, Mistake

FAILED, MISTAKE = 1, 2
SIGNALLED = 128
"""A signal's number is added."""
PASSING = (MachineFault, ConnectionError, TimeoutError)
GIVEN = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, socket.gaierror)
GIVEN_NUMBERS = (
    None,  # what is said in words
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EROFS,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
)
"""The system's errors that mean a path, a device or an address which the user gave; any other may pass."""


class Ended(Exception):
    """The work ended early, and not by the user's mistake: the one line about it, and the exit code."""

    def __init__(self, line: str, code: int = FAILED):
        super().__init__(line)
        self.code = code


def tell(end: dict | Exception) -> None:
    """The last line: of what came of it on stdout, or of what ended it on stderr."""
    if isinstance(end, Exception):
        refuse(in_one_line(end), code_of(end))
    try:
        with unread():
            print(json.dumps(end))
    except OSError as error:  # a full disk
        _drop()
        refuse(f"stdout: {error.strerror}", FAILED)


def code_of(error: Exception) -> int:
    """The exit code of an error that is told in one line: MISTAKE where another try would come to the same."""
    if isinstance(error, Ended):
        return error.code
    if isinstance(error, Mistake) or not isinstance(error, OSError):
        return MISTAKE
    given = isinstance(error, GIVEN) or error.errno in GIVEN_NUMBERS
    return MISTAKE if given and not isinstance(error, PASSING) else FAILED


def foreseen(error: Exception) -> Exception | None:
    """What to tell of an error in one line; None of a defect."""
    if isinstance(error, ZeroDivisionError | OverflowError):  # Python's; ours are of NaN
        return None
    if isinstance(error, Mistake | OSError | ArithmeticError | Ended):
        return error
    ran_out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, of a GPU
    if ran_out or "can't allocate memory" in str(error):  # PyTorch's, of a CPU
        return MachineFault(f"no room in memory: {in_one_line(error)}")  # others may have had it
    return None


@contextmanager
def unread() -> Iterator[None]:
    """Where nobody reads stdout any more (`| head`) the rest of it is dropped, quietly."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop()


def _drop() -> None:
    """Let stdout lead nowhere: what it still holds would fail again at the program's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """A line on stderr, above a progress bar."""
    tqdm.write(text, file=sys.stderr)


def refuse(message: str, code: int = MISTAKE) -> None:
    """Print one line on stderr and end the program."""
    print(f"semagram: {message}", file=sys.stderr)
    raise SystemExit(code)
