"""Lines that are redrawn in place on a terminal."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO


class Terminal:
    """Writes to `stream`; new lines replace those drawn last. Threads may share it.

    What is drawn is cut to the terminal's size: lines that wrapped or scrolled off the top could not be replaced the
    next time. If `stream` is not a terminal, everything stays. A closed terminal raises nothing: there may still be an
    arm to stop or a worker to notify.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.live = stream, stream.isatty()
        self._drawn, self._lock = 0, threading.Lock()

    def draw(self, lines: Sequence[str]) -> None:
        """Write lines in place of those drawn last."""
        with self._lock:
            wide, high = self._size()
            lines = lines[:high]
            self._write("".join(f"{line[:wide]}\n" for line in lines))
            self._drawn = len(lines) if self.live else 0

    def say(self, text: str, keep: bool = False) -> None:
        """Write a line that stays, in place of what is drawn; with `keep`, below it, so that both stay."""
        with self._lock:
            if keep:
                self._drawn = 0
            self._write(f"{text}\n")

    def _size(self) -> tuple[int | None, int | None]:
        """Return the columns and lines available for drawing (the cursor stands below them); None where unknown."""
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
