"""The robot's side: asks for plans without ever waiting; a lost connection is a late plan, and is made again."""

import socket
import threading
import time
from collections.abc import Callable

import numpy as np

from policies.serving.connection import Connection
from policies.serving.messages import NO_FRAMES, Answer, Ask, Begin, Message, Ready, Refusal, WrongMessage
from policies.serving.sealing import Refused

AGAIN_S = 0.5


class Link:
    """A planner at the other end of a socket that `reach` opens, as often as it takes.

    `say` gets one line for each loss. `losses` counts them; `reason` says why the last one was.
    """

    def __init__(
        self,
        reach: Callable[[], socket.socket],
        secret: bytes,
        begin: Begin,
        say: Callable[[str], None],
        patience_s: float | None = 10.0,
        away_s: float = 10.0,
    ):
        """Connect later. `patience_s`: how long the planner may take to answer a new connection; None: as it likes.

        `away_s`: a planner that was lost for so long is `gone`; 0: at once, and it is not looked for again.
        """
        self._reach, self._secret, self._begin, self._say = reach, secret, begin, say
        self._patience_s, self._away_s, self._lost_at = patience_s, away_s, 0.0
        self._connection: Connection | None = None
        self._found: Connection | None = None
        self._closed, self._number = threading.Event(), 0
        self.losses, self.reason = 0, ""

    def connect(self) -> None:
        """Connect, and wait until the planner is ready. Raises Refused with the planner's reason, OSError."""
        self._connection = self._open()

    @property
    def connected(self) -> bool:
        """Whether there is someone to ask."""
        if self._connection is None:
            self._connection, self._found = self._found, None
        return self._connection is not None

    def gone(self) -> str:
        """Why there is nobody to ask any more; empty: there is, or may be again."""
        if self.connected or time.monotonic() - self._lost_at < self._away_s:
            return ""
        return f"the planner is gone: {self.reason}"

    def ask(self, state, fresh: bool, frames=NO_FRAMES, there=()) -> int | None:
        """Ask for a decision, as `Ask` has it; its number, or None while nobody can be asked: lost, or still busy."""
        if not self.connected:
            return None
        try:
            if self._connection.busy:
                return None
            self._number += 1
            self._connection.send(Ask(self._number, fresh, state, frames, np.array(there, np.uint8)))
        except OSError as error:
            self._lose(error)
            return None
        return self._number

    def poll(self) -> list[Answer]:
        """The decisions that have come."""
        if self._connection is None:
            return []
        try:
            messages = self._connection.poll()
            for message in messages:
                if not isinstance(message, Answer):
                    raise Refused(_reason(message))
        except (OSError, WrongMessage) as error:
            self._lose(error)
            return []
        return messages

    def close(self) -> None:
        """Hang up for good."""
        self._closed.set()
        for connection in (self._connection, self._found):
            if connection is not None:
                connection.close()

    def _open(self) -> Connection:
        sock = self._reach()
        try:
            connection = Connection(sock, self._secret, False, self._patience_s)
            connection.send(self._begin)
            answer = connection.receive()
            if not isinstance(answer, Ready):
                raise Refused(_reason(answer))
            connection.hurried()
        except BaseException:
            sock.close()
            raise
        return connection

    def _lose(self, error: Exception) -> None:
        self._connection.close()
        self._connection = None
        self.losses, self._lost_at = self.losses + 1, time.monotonic()
        self.reason = str(error) or type(error).__name__
        if not self._away_s:
            return
        self._say(f"the planner is lost: {self.reason}; connecting again")
        threading.Thread(target=self._again, daemon=True).start()

    def _again(self) -> None:
        while not self._closed.wait(AGAIN_S):
            try:
                self._found = self._open()
                return
            except (OSError, WrongMessage) as error:
                self.reason = str(error)


def _reason(message: Message) -> str:
    return message.reason if isinstance(message, Refusal) else f"an unexpected {type(message).__name__}"
