"""The twin's serial port: a pseudo-terminal that a program opens like a USB adapter's, and that can be unplugged."""

import os
import pty
import tty

CHUNK = 4096


class Port:
    """One end of a pseudo-terminal; `name` is the other, for the host. Unplugged, it has neither."""

    def __init__(self):
        self._ours = self._theirs = -1
        self.name = ""
        self.plug()

    def plug(self) -> None:
        """Make the terminal; the kernel chooses its name, as it does for a USB adapter."""
        self._ours, self._theirs = pty.openpty()  # theirs stays open: a host may come and go
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.name = os.ttyname(self._theirs)

    def unplug(self) -> None:
        """Take the terminal away: whoever has it open gets an input/output error, as from a pulled USB cable."""
        os.close(self._ours)
        os.close(self._theirs)
        self._ours = self._theirs = -1
        self.name = ""

    @property
    def plugged(self) -> bool:
        """Whether there is a terminal."""
        return bool(self.name)

    def fileno(self) -> int:
        """Our end, for a selector."""
        return self._ours

    def read(self) -> bytes:
        """What the host has sent; nothing if nothing waits, or there is no terminal any more."""
        if not self.plugged:
            return b""
        try:
            return os.read(self._ours, CHUNK)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        """Send to the host; a line that nobody reads loses what is too much for it."""
        try:
            os.write(self._ours, data)
        except BlockingIOError:
            return
