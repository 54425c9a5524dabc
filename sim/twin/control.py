"""A small channel beside the twin's line, for tests, evaluation and rehearsals: one JSON object a line, each way.

A request is {"do": name, ...arguments}; its answer {"ok": true, ...} or {"ok": false, "error": text}.
"""

import json
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

from sim.impossible import Impossible

LONGEST_LINE = 65536

Handler = Callable[[dict], dict]


class ControlServer:
    """Listens on a Unix socket; `serve` answers what has come, without waiting."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, handler: Handler):
        """Raises OSError where another twin listens or nothing can be made."""
        discard(path)
        if path.is_socket():
            raise OSError(f"{path}: another twin listens there; stop it, or give another port_file")
        self._path, self._selector, self._handler = path, selector, handler
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._socket.setblocking(False)
        self._held: dict[socket.socket, bytes] = {}
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        connection.setblocking(False)
        self._held[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(LONGEST_LINE)
        except ConnectionError:  # the other end is gone: nobody is left to tell
            data = b""
        held = self._held[connection] + data
        *lines, self._held[connection] = held.split(b"\n")
        if not data or len(self._held[connection]) > LONGEST_LINE or not all(self._reply(connection, x) for x in lines):
            self._drop(connection)

    def _reply(self, connection: socket.socket, line: bytes) -> bool:
        """Answer one line; False if nobody takes the answer."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise Impossible(f'{line[:80]!r}: a JSON object, e.g. {{"do": "state"}}')
            answer = {"ok": True, **self._handler(request)}
        except (ValueError, RecursionError) as error:  # the latter of what is nested too deeply to be read
            answer = {"ok": False, "error": " ".join(str(error).split())}
        try:
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:  # gone, or does not read
            return False
        return True

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._held[connection]
        connection.close()

    def close(self) -> None:
        """Close the socket and its connections, and remove its file."""
        for connection in list(self._held):
            self._drop(connection)
        self._selector.unregister(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)


def listens(path: Path) -> bool:
    """Whether a process listens on the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def discard(path: Path) -> None:
    """Remove the Unix socket at `path`, if there is one, of a process that was killed."""
    if path.is_socket() and not listens(path):
        path.unlink()


class TwinControl:
    """The other end: `TwinControl(path).ask("state")`. A context manager."""

    def __init__(self, path: Path | str, timeout_s: float = 30.0):
        """Raises OSError if no twin listens there."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("r", encoding="utf-8")

    def ask(self, do: str, **arguments) -> dict:
        """Send a request; its answer. Raises ValueError with the twin's words, ConnectionError if the twin has gone."""
        self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = self._file.readline()
        if not line:
            raise ConnectionError("the twin has closed its control channel")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise Impossible(answer["error"])
        return answer

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> "TwinControl":
        """The channel itself."""
        return self

    def __exit__(self, *_) -> None:
        """Hang up."""
        self.close()
