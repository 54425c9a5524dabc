"""The planner's side: of the robots it suits, the last to connect has the planner; all others are told why not."""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from policies.serving.connection import HANDSHAKE_S, Connection
from policies.serving.decider import Decider
from policies.serving.messages import LONGEST_TEXT, Begin, Question, Ready, Refusal, Replaced, WrongMessage
from policies.serving.sealing import Refused

MOST = 16
"""Maximum number of connections in the handshake at a time."""
LEAVE_S = 5.0
"""How long the previous robot is given to be told that another took over before its connection is closed."""
REMEMBERED = 1000
"""How many of the robots that were replaced by another are remembered."""
REST_S = 0.1
"""Pause after a failed accept, e.g. when no file descriptor is left."""


def converse(connection: Connection, decider: Decider, seated: Callable[[Begin], bool] = lambda begin: True) -> None:
    """Answer one robot until it hangs up.

    `seated` is called once the robot has proved that it knows the secret and the planner suits it. If it returns false,
    another robot has taken the planner over from this one: this one is told so, and the function returns. Otherwise it
    ends by raising Refused or WrongMessage, having told the robot why if it can be reached, or OSError.
    """
    try:
        first = connection.receive()
        if not isinstance(first, Begin):
            raise WrongMessage(f"{type(first).__name__}: Begin comes first")
        if why := decider.unfit(first):
            raise Refused(why)
        connection.patient()
        if not seated(first):
            connection.send(Replaced())
            return
        decider.begin(first)
        connection.send(Ready())
        while True:
            question = connection.receive()
            if not isinstance(question, Question):
                raise WrongMessage(f"{type(question).__name__}: a Question is all that a robot says after Begin")
            connection.send(decider.answer(question))
    except (Refused, WrongMessage) as error:
        with contextlib.suppress(OSError):  # the robot may be gone
            connection.send(Refusal(str(error)[:LONGEST_TEXT]))
        raise


def turn_away(connection: Connection, why: str) -> None:
    """Refuse one robot, once it has said what it is, for want of a planner. Raises OSError, WrongMessage."""
    connection.receive()
    connection.send(Refusal(why[:LONGEST_TEXT]))


class Server:
    """Listens at `address`, (host, port); calls `say` with one line for each robot that comes, goes or is refused."""

    def __init__(self, address: tuple[str, int], secret: bytes, decider: Decider, say: Callable[[str], None]):
        """Start listening. Raises OSError if that fails."""
        self._secret, self._decider, self._say = secret, decider, say
        self._listener = socket.create_server(address, backlog=MOST, family=_family(address[0]))
        self._lock, self._seat = threading.Lock(), threading.Lock()
        self._current: Connection | None = None
        self._robot = ""  # the id of that robot
        self._replaced: deque[str] = deque(maxlen=REMEMBERED)
        self._closed = False
        self._room = threading.Semaphore(MOST)
        self.refused = 0

    @property
    def address(self) -> tuple[str, int]:
        """The (host, port) that it listens at."""
        return self._listener.getsockname()[:2]

    def run(self) -> None:
        """Serve until `close` is called."""
        trouble = ""
        while not self._closed:
            try:
                sock, peer = self._listener.accept()
            except OSError as error:
                if not self._closed and str(error) != trouble:  # repeated errors are reported once
                    trouble = str(error)
                    self._say(f"a robot cannot be let in: {trouble}")
                time.sleep(REST_S)
                continue
            trouble = ""
            if not self._room.acquire(blocking=False):
                self.refused += 1
                self._say(f"{peer[0]}: refused: {MOST} others are connecting")
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock, peer[0]), daemon=True).start()

    def close(self) -> None:
        """Stop listening, and hang up on the robot being served. Further calls have no effect."""
        if self._closed:
            return
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._current is not None:
            self._current.close()

    def _take_over(self, connection: Connection, robot: str) -> None:
        """Give the planner to this robot, once the previous one has been told or `LEAVE_S` have passed."""
        with self._lock:
            before, self._current = self._current, connection
            if self._robot not in ("", robot):
                self._replaced.append(self._robot)
            self._robot = robot
        if before is not None:
            before.hear_no_more()
        if not self._seat.acquire(timeout=LEAVE_S):
            if before is not None:
                before.close()
            self._seat.acquire()

    def _serve(self, sock: socket.socket, name: str) -> None:
        connection = shaking = None
        try:
            shaking = self._room
            connection = Connection(sock, self._secret, True, HANDSHAKE_S)

            def seated(begin: Begin) -> bool:
                nonlocal shaking
                if begin.robot in self._replaced:
                    return False
                self._room.release()
                shaking = None
                self._take_over(connection, begin.robot)
                self._say(f"{name}: a robot")
                return True

            converse(connection, self._decider, seated)
        except (OSError, WrongMessage) as error:
            self.refused += shaking is not None
            if replaced := connection is not None and shaking is None and self._current is not connection:
                with contextlib.suppress(OSError):  # the robot may be gone
                    connection.send(Replaced())
            why = "another robot took over" if replaced else str(error) or type(error).__name__
            self._say(f"{name}: {'gone' if shaking is None else 'refused'}: {why}")
        finally:
            if shaking is None:
                self._seat.release()
            else:
                shaking.release()
            (connection or sock).close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
