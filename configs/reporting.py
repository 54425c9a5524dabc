"""How a command ends: one JSON line for a result, or one line and an exit code for an error."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from robot.safety.stops import Stopped
from worldmodel.errors import OWN, MachineFault, UserError, in_one_line

TRACEBACK = "SEMAGRAM_TRACEBACK"
"""Environment variable: if set, any error that ends a command is shown with its traceback."""
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
asked: list[int] = []
"""The signals that asked this program to stop, where no work heeds them itself (`configs.sweep.stoppable`)."""


class Ended(Exception):
    """The work ended early, but not by a mistake of the user's. Carries a one-line message and the exit code."""

    def __init__(self, line: str, code: int = FAILED):
        super().__init__(line)
        self.code = code


def tell(result: dict) -> None:
    """Print a result as JSON, the last line of stdout."""
    try:
        with unread():
            print(json.dumps(result))
    except OSError as error:  # a full disk
        _drop()
        refuse(f"stdout: {error.strerror}", FAILED)


def show(*lines: str) -> None:
    """Print lines for a person on stdout."""
    with unread():
        print("\n".join(lines), flush=True)


def fail(error: Exception) -> NoReturn:
    """End the program with a line about an error; raise it again if it is a bug; Stopped after a stop signal."""
    if asked:
        raise Stopped(asked[0]) from error
    if any(note.startswith(OWN) for note in getattr(error, "__notes__", ())):
        raise error
    if os.environ.get(TRACEBACK) or (end := ending(error)) is None:
        raise error
    refuse(in_one_line(end), end.code)


def ending(error: Exception) -> Ended | None:
    """Return how a command ends on an error: MISTAKE if a retry would fail alike, else FAILED; None for a bug."""
    line = in_one_line(error)
    if isinstance(error, Ended):
        return error
    if isinstance(error, ZeroDivisionError | OverflowError):  # raised by Python; our own ArithmeticErrors are about NaN
        return None
    if isinstance(error, UserError | ArithmeticError):
        return Ended(line, MISTAKE)
    if isinstance(error, OSError):
        given = isinstance(error, GIVEN) or error.errno in GIVEN_NUMBERS
        if by := _given_by(error):
            line = f"{by}: {error.strerror} ({error.filename})"
        return Ended(line, MISTAKE if given and not isinstance(error, PASSING) else FAILED)
    ran_out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, on a GPU
    if ran_out or "can't allocate memory" in str(error):  # PyTorch's, on a CPU
        return Ended(f"no room in memory: {line}")  # other processes may be using it
    return None


def _given_by(error: OSError) -> str:
    """Return the argument that gave the path that an error is about, or a folder above it; "" for none."""
    if not isinstance(error.filename, str):
        return ""
    above = (Path(error.filename), *Path(error.filename).parents)
    return next((word for word in sys.argv[1:] if (value := word.partition("=")[2]) and Path(value) in above), "")


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


def refuse(message: str, code: int = MISTAKE) -> NoReturn:
    """Print one line on stderr and exit with `code`."""
    print(f"semagram: {message}", file=sys.stderr)
    raise SystemExit(code)
