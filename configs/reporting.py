"""How a command ends: one JSON line for a result, or one line and an exit code for an error."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from worldmodel.errors import MachineFault, UserError, in_one_line

FAILED, MISTAKE = 1, 2
SIGNALLED = 128
"""Base of the exit code for a signal, to which its number is added."""
PASSING = (MachineFault, ConnectionError, TimeoutError)
GIVEN = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, socket.gaierror)
GIVEN_NUMBERS = (
    None,  # raised with a message only
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EROFS,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
)
"""errno values that point to a path, device or address which the user gave; any other condition may pass."""


class Ended(Exception):
    """The work ended early, but not by a mistake of the user's. Carries a one-line message and the exit code."""

    def __init__(self, line: str, code: int = FAILED):
        super().__init__(line)
        self.code = code


def tell(end: dict | Exception) -> None:
    """Print the last line: a result as JSON on stdout, or an error on stderr, which also ends the program."""
    if isinstance(end, Exception):
        refuse(in_one_line(end), code_of(end))
    try:
        with unread():
            print(json.dumps(end))
    except OSError as error:  # a full disk
        _drop()
        refuse(f"stdout: {error.strerror}", FAILED)


def code_of(error: Exception) -> int:
    """Return the exit code of an error reported in one line: MISTAKE if a retry would fail alike, else FAILED."""
    if isinstance(error, Ended):
        return error.code
    if isinstance(error, UserError) or not isinstance(error, OSError):
        return MISTAKE
    given = isinstance(error, GIVEN) or error.errno in GIVEN_NUMBERS
    return MISTAKE if given and not isinstance(error, PASSING) else FAILED


def foreseen(error: Exception) -> Exception | None:
    """Return the error to report in one line, or None if it is a bug, which deserves a traceback."""
    if isinstance(error, ZeroDivisionError | OverflowError):  # raised by Python; our own ArithmeticErrors are about NaN
        return None
    if isinstance(error, UserError | OSError | ArithmeticError | Ended):
        return error
    ran_out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, on a GPU
    if ran_out or "can't allocate memory" in str(error):  # PyTorch's, on a CPU
        return MachineFault(f"no room in memory: {in_one_line(error)}")  # other processes may be using it
    return None


@contextmanager
def unread(quiet: bool = True) -> Iterator[None]:
    """Silently discard the rest of stdout if its reader has gone (`| head`), unless not `quiet`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not quiet:
            raise
        _drop()


def _drop() -> None:
    """Redirect stdout to /dev/null: flushing its buffer at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print a line on stderr, above any progress bar."""
    tqdm.write(text, file=sys.stderr)


def progress_bar(steps: int, **more) -> tqdm:
    """Return a progress bar on stderr, which a log gets only now and then."""
    often = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=steps, unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=often, **more)


def refuse(message: str, code: int = MISTAKE) -> None:
    """Print one line on stderr and exit with `code`."""
    print(f"semagram: {message}", file=sys.stderr)
    raise SystemExit(code)
