"""Lines that are redrawn in place on a terminal."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO


class Terminal:
    """Writes on `stream`; what was drawn last gives way to what comes next. Threads may share it.

    What is drawn is cut to the terminal's size: a line that broke, or had left the top, would be drawn below itself the
    next time. Elsewhere than on a terminal everything stays. Nothing is raised when the terminal is closed: nobody
    reads, and there may still be an arm to stop or a worker to tell.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.live = stream, stream.isatty()
        self._drawn, self._lock = 0, threading.Lock()

    def draw(self, lines: Sequence[str]) -> None:
        """Write lines in the place of those that were drawn last."""
        with self._lock:
            wide, high = self._size()
            lines = lines[:high]
            self._write("".join(f"{line[:wide]}\n" for line in lines))
            self._drawn = len(lines) if self.live else 0

    def say(self, text: str, keep: bool = False) -> None:
        """Write a line that stays, in the place of what is drawn; `keep`: below it, and it stays, too."""
        with self._lock:
            if keep:
                self._drawn = 0
            self._write(f"{text}\n")

    def _size(self) -> tuple[int | None, int | None]:
        """The columns and lines that can be drawn, below which the cursor stands; None where it does not say."""
        size = os.terminal_size((0, 0))
        if self.live:
            with suppress(OSError):
                size = os.get_terminal_size(self.stream.fileno())
        return size.columns or None, max(1, size.lines - 1) if size.lines else None

    def _write(self, text: str) -> None:
        clear = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._drawn = 0
        with suppress(OSError):
            self.stream.write(clear + text)
            self.stream.flush()
