"""A sealed connection over a socket: the handshake, then messages, waited for or not."""

import contextlib
import socket
import time

from policies.serving.messages import Message, WrongMessage
from policies.serving.sealing import HELLO, Seal, hello

HANDSHAKE_S = 5.0
"""From a connection's beginning to its first authentic message, at most."""
CHUNK = 1 << 16
STUCK_S = 5.0
"""A line over which nothing has gone for so long, though there is something to go, is dead."""
ROOM = 1 << 22
"""Bytes that the system is asked to keep of what was sent, so that frames leave at once."""


class Connection:
    """One end of a sealed socket."""

    def __init__(self, sock: socket.socket, secret: bytes, serving: bool, patience_s: float | None):
        """Shake hands. Raises Refused, OSError (TimeoutError among them).

        Until `patient` or `hurried` it waits `patience_s` in all, whatever is said; None: as long as it takes.
        """
        self._socket = sock
        self._end = None if patience_s is None else time.monotonic() + patience_s
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        ours, theirs = hello(), b""
        self._wait()
        sock.sendall(ours)
        while len(theirs) < HELLO.size:
            theirs += self._read(HELLO.size - len(theirs))
        self._seal, self._rest, self._moved = Seal(secret, ours, theirs, serving), b"", 0.0
        self._waiting: list[Message] = []
        self._failed: Exception | None = None  # why nothing more comes, where what came before was given out first

    def patient(self) -> None:
        """Wait as long as it takes from now on."""
        self._end = None
        self._socket.settimeout(None)

    def hurried(self) -> None:
        """Wait for nothing from now on: `poll` takes what there is, `send` what there is room for, `poll` the rest."""
        self._end = None
        self._socket.settimeout(0)

    def send(self, message: Message) -> None:
        """Send it. Raises OSError, after which the connection is no use."""
        data = self._seal.seal(message)
        if self._socket.gettimeout() == 0:
            if not self._rest:
                self._moved = time.monotonic()
            self._rest += data
            self._push()
        else:
            self._wait()
            self._socket.sendall(data)

    def receive(self) -> Message:
        """The next message. Raises Refused, WrongMessage, OSError."""
        while not self._waiting:
            self._waiting += self._seal.open(self._read(CHUNK))
        return self._waiting.pop(0)

    def poll(self) -> list[Message]:
        """The messages that have come. Raises as `receive`."""
        if self._failed is not None:
            raise self._failed
        self._push()
        try:
            while True:
                self._waiting += self._seal.open(self._read(CHUNK))
        except BlockingIOError:
            pass
        except (OSError, WrongMessage) as error:
            if not self._waiting:
                raise
            self._failed = error
        messages, self._waiting = self._waiting, []
        return messages

    def hear_no_more(self) -> None:
        """Take in nothing that comes from now on: who waits in `receive` is woken by an OSError, and can still send."""
        with contextlib.suppress(OSError):  # where the other side was quicker
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Hang up; who waits in `receive` is woken."""
        with contextlib.suppress(OSError):  # where the other side was quicker
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _push(self) -> None:
        """Send as much of the rest as there is room for. Raises OSError, also where there has been none for long."""
        with contextlib.suppress(BlockingIOError):
            while self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
                self._moved = time.monotonic()
        if self._rest and time.monotonic() - self._moved > STUCK_S:
            raise ConnectionError(f"the other side has not read for {STUCK_S:g} s")

    def _wait(self) -> None:
        """Let the next call wait no longer than is left. Raises TimeoutError where nothing is."""
        if self._end is None:
            return
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _read(self, count: int) -> bytes:
        self._wait()
        data = self._socket.recv(count)
        if not data:
            raise ConnectionError("the other side hung up")
        return data
