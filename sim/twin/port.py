"""The twin's serial port: a pseudo-terminal that programs open like a USB adapter's port; it can be unplugged."""

import os
import pty
import tty
from contextlib import suppress

CHUNK = 4096


class Port:
    """The twin's end of a pseudo-terminal; `name` is the host's end, empty while unplugged."""

    def __init__(self):
        self.plug()

    def plug(self) -> None:
        """Create the terminal; the kernel chooses its name, as it does for a USB adapter."""
        self._ours, self._theirs = pty.openpty()  # theirs stays open so that hosts may come and go
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.name = os.ttyname(self._theirs)

    def unplug(self) -> None:
        """Remove the terminal: a host that has it open gets an I/O error, as from a pulled USB cable."""
        os.close(self._ours)
        os.close(self._theirs)
        self._ours = self._theirs = -1
        self.name = ""

    @property
    def plugged(self) -> bool:
        """Whether the terminal exists."""
        return bool(self.name)

    def fileno(self) -> int:
        """Return the file descriptor of our end, for a selector; -1 while unplugged."""
        return self._ours

    def read(self) -> bytes:
        """Return up to CHUNK bytes that the host has sent; empty if there are none or the port is unplugged."""
        with suppress(BlockingIOError):
            return os.read(self._ours, CHUNK) if self.plugged else b""
        return b""

    def write(self, data: bytes) -> None:
        """Send to the host; if the host does not read, data that does not fit into the buffer is lost."""
        with suppress(BlockingIOError):
            os.write(self._ours, data)
