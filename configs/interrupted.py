"""Ctrl-C while a command is still being imported. Light, since a command begins with it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the program as `configs.command.run` ends it: with one line, and 128 + its number."""
    try:
        yield
    except KeyboardInterrupt:
        print("semagram: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
