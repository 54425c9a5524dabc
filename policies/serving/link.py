"""The robot's side: asks for plans without blocking. A lost connection is like a late plan, and is reopened."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

import numpy as np

from policies.serving.connection import Connection
from policies.serving.messages import Answer, Begin, Message, Question, Ready, Refusal, Replaced, WrongMessage, together
from policies.serving.sealing import Refused

AGAIN_S = 0.5
"""Pause before each attempt to reconnect."""
LONGEST_SENTENCE = 100
"""Maximum number of tokens in a plan."""


class Link:
    """A connection to a planner over sockets that `reach` opens, reopened as often as necessary.

    `say` is called with one line for each lost connection to be reopened. `losses` counts the losses; `reason` is why
    the connection was last lost, or could last not be reopened.
    """

    def __init__(
        self,
        reach: Callable[[], socket.socket],
        secret: bytes,
        begin: Begin,
        say: Callable[[str], None],
        patience_s: float | None = 10.0,
        away_s: float = 10.0,
        again: bool = True,
    ):
        """Prepare the link; `connect` opens it.

        `patience_s`: how long the planner may take to answer a new connection; None: no limit. `away_s`: the planner is
        `gone` once it has been lost, or has owed an answer, for this long; a connection that is lost again before an
        answer came does not restart this time. `again`: reconnect to a planner that was lost, unless another robot took
        it over or it sent an unusable plan; if false, it is gone at once.
        """
        self._reach, self._secret, self._say = reach, secret, say
        self._begin = replace(begin, robot=uuid.uuid4().hex)
        self._patience_s, self._away_s, self._again, self._lost_at = patience_s, away_s, again, 0.0
        self._connection: Connection | None = None
        self._found: SimpleQueue[Connection] = SimpleQueue()
        self._closed, self._number = threading.Event(), 0
        self._owed: tuple[int, float] | None = None  # the unanswered question's number and time
        self._answered = True  # whether an answer has come since the last loss
        self.losses, self.reason = 0, ""

    def connect(self) -> None:
        """Connect, and wait until the planner is ready. Raises Refused with its reason, WrongMessage or OSError."""
        self._connection = self._open()

    def connected(self) -> bool:
        """Return whether there is a planner to ask; adopt a connection that was reopened in the background."""
        if self._connection is None:
            with suppress(Empty):
                self._connection = self._found.get_nowait()
        return self._connection is not None

    def gone(self) -> str:
        """Return why the planner is gone for good, or "" if it is there or may come back."""
        now = time.monotonic()
        if self.connected():
            if self._owed is None or now - self._owed[1] < self._away_s:
                return ""
            return f"the planner is gone: no answer for {self._away_s:g} s"
        if self._again and now - self._lost_at < self._away_s:
            return ""
        return f"the planner is gone: {self.reason}"

    def awaits(self, number: int) -> bool:
        """Return whether the answer to question `number` may still come."""
        return self._owed is not None and self._owed[0] == number

    def ask(self, state, fresh: bool, frames: Sequence[np.ndarray] = (), there=()) -> int | None:
        """Ask for a decision (`Question`); return its number, or None if the planner is lost or still owes an answer.

        `frames`: the frames of each camera, (F, H, W, 3). Raises WrongMessage for a question that cannot be packed.
        """
        connection = self._connection if self.connected() else None
        if connection is None or self._owed is not None:
            return None
        try:
            seen = together(frames), np.array(there, np.uint8)
            connection.send(Question(self._number + 1, fresh, state, *seen))
        except OSError as error:
            self._lose(connection, error)
            return None
        self._number += 1
        self._owed = (self._number, time.monotonic())
        return self._number

    def poll(self) -> list[Answer]:
        """Return the decisions that have arrived."""
        connection, answers = self._connection, []
        if connection is None:
            return []
        try:
            for message in connection.poll():
                if not isinstance(message, Answer):
                    raise self._refused(message)
                self._check(message)
                if self.awaits(message.number):
                    self._owed, self._answered = None, True
                answers.append(message)
        except (OSError, WrongMessage) as error:
            self._lose(connection, error)
            return []
        return answers

    def close(self) -> None:
        """Hang up and stop reconnecting."""
        self._closed.set()
        if self.connected() and self._connection is not None:
            self._connection.close()

    def _open(self) -> Connection:
        sock = self._reach()
        try:
            connection = Connection(sock, self._secret, False, self._patience_s)
            connection.send(self._begin)
            answer = connection.receive()
            if not isinstance(answer, Ready):
                raise self._refused(answer)
            connection.hurried()
        except BaseException:
            sock.close()
            raise
        return connection

    def _check(self, answer: Answer) -> None:
        """Raise Refused for a plan that the arm cannot follow, and do not reconnect to its planner."""
        begin = self._begin
        wanted = {
            "actions": (begin.every, begin.action_size),
            "tokens": (LONGEST_SENTENCE, begin.knots * begin.action_size),
        }
        for name, (most, width) in wanted.items():
            shape = getattr(answer, name).shape
            if len(shape) != 2 or not 1 <= shape[0] <= most or shape[1] != width:
                self._again = False
                raise Refused(f"the {name} of its plan are of shape {shape}, not (1 to {most}, {width})")
        if not 1 <= answer.length <= begin.length:
            self._again = False
            raise Refused(f"the tokens of its plan last {answer.length} control steps, not 1 to {begin.length}")

    def _lose(self, connection: Connection, error: Exception) -> None:
        connection.close()
        self._connection = self._owed = None
        self.losses += 1
        if self._answered:
            self._answered, self._lost_at = False, time.monotonic()
        self.reason = str(error) or type(error).__name__
        if not self._again:
            return
        self._say(f"the planner is lost: {self.reason}; connecting again")
        threading.Thread(target=self._reconnect, daemon=True).start()

    def _reconnect(self) -> None:
        while not self._closed.wait(AGAIN_S):
            try:
                found = self._open()
                self._found.put(found)
                if self._closed.is_set():
                    found.close()
                return
            except (OSError, WrongMessage) as error:
                self.reason = str(error)
            if not self._again:
                return

    def _refused(self, message: Message) -> Refused:
        """Return the error that a message other than the expected one means; stop reconnecting if it is Replaced."""
        if isinstance(message, Replaced):
            self._again = False
            return Refused("another robot took over")
        return Refused(message.reason if isinstance(message, Refusal) else f"an unexpected {type(message).__name__}")
