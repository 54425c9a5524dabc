"""The robot's side: asks for plans without ever waiting. A lost connection is like a late plan, and is reopened."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from policies.planner_link import messages
from policies.planner_link.messages import Answer, Begin, Question, Ready, Refusal, Refused
from worldmodel.errors import UserError

RETRY_S = 0.5  # pause before each attempt to reconnect
MOST_TOKENS = 100  # maximum number of tokens in a plan


class PlannerClient:
    """A connection to a planner over sockets that `reach` opens, reopened as often as necessary.

    A thread of its own does all that may take time. `say` is called with a line for each lost connection to be
    reopened. `losses` counts them; `reason` is why the last exchange failed; `asked`: the last question,
    as it was sent.
    """

    def __init__(
        self,
        reach: Callable[[], socket.socket],
        begin: Begin,
        say: Callable[[str], None],
        patience_s: float | None = 10.0,
        away_s: float = 10.0,
        reconnect: bool = True,
    ):
        """Prepare the client; `connect` opens the connection.

        `patience_s`: how long the planner may take to accept a connection; None: no limit. `away_s`: the planner is
        `gone` once no answer has come for this long after a question, or a loss. `reconnect`: to a planner that was
        lost, unless its refusal was final or it sent an unusable plan; if false, it is gone at once.
        """
        self._reach, self._begin, self._say = reach, replace(begin, robot=uuid.uuid4().hex), say
        self._patience_s, self._away_s, self._reconnect = patience_s, away_s, reconnect
        self._worker, self._closed = ThreadPoolExecutor(1, "planner client"), threading.Event()
        self._socket: socket.socket | None = None
        self._number = 0  # of the last question
        self._pending: Future[Answer] | None = None  # its answer to be
        self._since: float | None = None  # when a question was asked, or then the connection lost, with no answer since
        self.losses, self.reason, self.asked = 0, "", b""

    def connect(self) -> None:
        """Connect, and wait until the planner is ready. Raises Refused with its reason, WrongMessage or OSError."""
        self._open(resumes=False)

    @property
    def waiting(self) -> bool:
        """Whether the answer to the last question may still come."""
        return self._pending is not None

    def ask(self, state, fresh: bool, frames: Sequence[np.ndarray] = (), present=(), *more) -> bool:
        """Ask for a decision (`Question`), unless one is pending: return whether. Raises WrongMessage."""
        if self.waiting:
            return False
        given = fresh, state, tuple(frames), np.asarray(present, bool), *more
        self.asked = messages.encode(Question(self._number + 1, *given))
        self._number += 1
        self._pending = self._worker.submit(self._exchange, self.asked)
        self._since = time.monotonic() if self._since is None else self._since
        return True

    def poll(self) -> Answer | None:
        """Return the decision, if it has arrived."""
        if self._pending is None or not self._pending.done():
            return None
        pending, self._pending = self._pending, None
        try:
            answer = pending.result()
        except (OSError, UserError) as error:
            self._lose(error)
            return None
        self._since, self.reason = None, ""
        return answer

    def gone(self) -> str:
        """Return why the planner is gone for good, or "" if it is there or may come back."""
        away = self._since is not None and time.monotonic() - self._since >= self._away_s
        if away or (self.reason and not self._reconnect):
            return f"the planner is gone: {self.reason or f'no answer for {self._away_s:g} s'}"
        return ""

    def close(self) -> None:
        """Hang up and stop reconnecting."""
        self._closed.set()
        messages.hang_up(self._socket)
        self._worker.shutdown()
        if self._socket is not None:
            self._socket.close()

    def _lose(self, error: Exception) -> None:
        again, self.reason = bool(self.reason), str(error) or type(error).__name__
        self._reconnect = self._reconnect and not getattr(error, "final", False)
        if again:  # without an answer in between
            return
        self.losses += 1
        if self._since is not None:
            self._since = time.monotonic()
        if self._reconnect:
            self._say(f"the planner is lost: {self.reason}; connecting again")

    def _open(self, resumes: bool) -> socket.socket:
        sock = self._socket = self._reach()
        if self._closed.is_set():
            raise ConnectionError("closed")
        sock.sendall(messages.encode(replace(self._begin, resumes=resumes)))
        _reply(sock, Ready, self._patience_s and time.monotonic() + self._patience_s)
        return sock

    def _exchange(self, question: bytes) -> Answer:
        """Send a question, wait for the answer. Raises UserError or OSError, after which the connection is closed."""
        try:
            if (sock := self._socket) is None or sock.fileno() < 0:
                if self._closed.wait(RETRY_S):
                    raise ConnectionError("closed")
                sock = self._open(resumes=True)
            sock.sendall(question)
            answer = _reply(sock, Answer)
            if why := self._unusable(answer):
                raise Refused(f"its plan cannot be used: {why}", final=True)
        except BaseException:
            if self._socket is not None:
                self._socket.close()
            raise
        return answer

    def _unusable(self, answer: Answer) -> str:
        """Return why the arm cannot follow an answer, or ""."""
        begin, (steps, size), (tokens, width) = self._begin, answer.actions.shape, answer.tokens.shape
        points = begin.control_points * begin.action_size
        if not 1 <= steps <= begin.every or size != begin.action_size:
            return f"actions of shape {(steps, size)}, not (1 to {begin.every}, {begin.action_size})"
        if not 1 <= tokens <= MOST_TOKENS or width != points:
            return f"tokens of shape {(tokens, width)}, not (1 to {MOST_TOKENS}, {points})"
        if not 1 <= answer.length <= begin.length:
            return f"tokens of {answer.length} control steps, not 1 to {begin.length}"
        return "" if answer.number == self._number else f"it is for question {answer.number}, not {self._number}"


def _reply[T: messages.Message](sock: socket.socket, kind: type[T], deadline: float | None = None) -> T:
    """Wait for a message of that kind. Raises Refused for any other, WrongMessage or OSError."""
    reply = messages.receive(sock, deadline)
    if isinstance(reply, Refusal):
        raise Refused(reply.reason, reply.final)
    if not isinstance(reply, kind):
        raise Refused(f"an unexpected {type(reply).__name__}")
    return reply


def reach(path: str) -> socket.socket:
    """Connect to a Unix socket. Raises ConnectionError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise ConnectionError(f"no planner at {path}: {error.strerror or error}") from error
    return sock
