"""An authenticated connection over a socket: a handshake, then messages, blocking or not."""

import contextlib
import socket
import time

from policies.serving.messages import Message, WrongMessage
from policies.serving.sealing import HELLO, Seal, hello

HANDSHAKE_S = 5.0
"""Maximum time from the start of a connection to its first authentic message."""
CHUNK = 1 << 16
STUCK_S = 5.0
"""A connection is considered dead if data has been waiting to be sent for this long without progress."""
ROOM = 1 << 22
"""Requested size of the socket's send buffer in bytes, so that camera frames are sent at once."""


class Connection:
    """One end of an authenticated connection."""

    def __init__(self, sock: socket.socket, secret: bytes, serving: bool, patience_s: float | None):
        """Perform the handshake. Raises Refused or OSError (including TimeoutError).

        `serving`: whether this is the planner's end. Until `patient` or `hurried` is called, all waiting together takes
        at most `patience_s`, however many messages arrive; None: no limit.
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
        self._failed: Exception | None = None  # raised by the next `poll`, after the messages before it

    def patient(self) -> None:
        """From now on, block without a time limit."""
        self._end = None
        self._socket.settimeout(None)

    def hurried(self) -> None:
        """From now on, never block: `send` sends what there is room for, and `poll` sends the rest and receives."""
        self._end = None
        self._socket.settimeout(0)

    def send(self, message: Message) -> None:
        """Send a message. Raises WrongMessage, or OSError, after which the connection is unusable."""
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
        """Wait for the next message. Raises Refused, WrongMessage or OSError."""
        while not self._waiting:
            self._waiting += self._seal.open(self._read(CHUNK))
        return self._waiting.pop(0)

    def poll(self) -> list[Message]:
        """Return the messages that have arrived. Raises as `receive`, after returning those from before the fault."""
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
        """Stop receiving: a thread waiting in `receive` is woken by an OSError, and can still send."""
        with contextlib.suppress(OSError):  # the other side may have closed it first
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Hang up; a thread waiting in `receive` is woken."""
        with contextlib.suppress(OSError):  # the other side may have closed it first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _push(self) -> None:
        """Send as much pending data as there is room for. Raises OSError, also if there was no room for `STUCK_S`."""
        with contextlib.suppress(BlockingIOError):
            while self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
                self._moved = time.monotonic()
        if self._rest and time.monotonic() - self._moved > STUCK_S:
            raise ConnectionError(f"the other side has not read for {STUCK_S:g} s")

    def _wait(self) -> None:
        """Limit the next socket call to the time left. Raises TimeoutError if none is left."""
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
