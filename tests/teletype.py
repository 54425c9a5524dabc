"""A terminal as a person has it: what was written to it, and what is to be read on it."""

import fcntl
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

WRITTEN = re.compile(r"\x1b\[(\d*)([A-Z])|(\r?\n)|([^\x1b\r\n])")


@contextmanager
def terminal(columns: int = 60, rows: int = 24) -> Iterator:
    """A stream that is a terminal, and a function that closes it and says what was written."""
    outer, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen = []

    def look():
        with suppress(OSError):  # it is closed
            while piece := os.read(outer, 4096):
                seen.append(piece)

    looking = threading.Thread(target=look)
    looking.start()
    stream = os.fdopen(inner, "w")

    def close() -> str:
        stream.close()
        looking.join()
        return b"".join(seen).decode()

    try:
        yield stream, close
    finally:
        close()
        os.close(outer)


def shown(written: str, columns: int = 60) -> list[str]:
    """The lines that such a terminal shows in the end, with all that scrolled off its top."""
    lines, row, column = [""], 0, 0
    for number, command, end, letter in WRITTEN.findall(written):
        if end or (letter and column == columns):
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        if letter:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
        elif command == "F":
            row, column = row - int(number or 1), 0
        elif command == "J":
            lines[row:] = [lines[row][:column]]
        elif command:
            raise ValueError(f"no such command: {command}")
    return lines[:-1] if not lines[-1] else lines
