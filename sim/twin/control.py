"""A control channel beside the twin's serial line, for tests, evaluation and rehearsals: one JSON object per line.

A request is {"do": name, ...arguments}; its answer is {"ok": true, ...} or {"ok": false, "error": text}.
"""

import json
import selectors
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sim import InvalidValue

LONGEST_LINE = 65536
LONGEST_SOCKET = 107  # bytes in the path of a Unix socket


def control_of(port_file: Path) -> Path:
    """Return the path of the control channel beside a port file."""
    return Path(f"{port_file}.control")


class ControlServer:
    """Listens on a Unix socket, without blocking; `handler` answers a request, or raises a ValueError."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, handler: Callable[[dict], dict]):
        """Start listening. Raises OSError if another twin listens there or the socket cannot be created."""
        discard(path)
        if path.is_socket():
            raise OSError(f"{path}: another twin listens there; stop it, or give another port_file")
        self._path, self._selector, self._handler = path, selector, handler
        self._held: dict[socket.socket, bytes] = {}  # each client's incomplete line
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        connection.setblocking(False)
        self._held[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(LONGEST_LINE)
            *lines, self._held[connection] = (self._held[connection] + data).split(b"\n")
            for line in lines:
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:  # the client is gone, or does not read
            data = b""
        if not data or len(self._held[connection]) > LONGEST_LINE:
            self._drop(connection)

    def _answer(self, line: bytes) -> dict:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise InvalidValue(f'{line[:80]!r}: a JSON object, e.g. {{"do": "state"}}')
            return {"ok": True, **self._handler(request)}
        except (ValueError, RecursionError) as error:  # the latter for JSON nested too deeply
            return {"ok": False, "error": " ".join(str(error).split())}

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
    """Return whether a process listens on the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def discard(path: Path) -> None:
    """Remove the Unix socket at `path` if there is one and nobody listens on it, e.g. as its process was killed."""
    if path.is_socket() and not listens(path):
        path.unlink()


class TwinControl(closing):
    """Client of the control channel and context manager: `TwinControl(path).ask("state")`."""

    def __init__(self, path: Path | str, timeout_s: float = 30.0):
        """Connect. Raises OSError if no twin listens at `path`."""
        super().__init__(self)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("r", encoding="utf-8")

    def ask(self, do: str, **arguments) -> dict:
        """Send a request; return its answer. Raises ValueError with the twin's, ConnectionError if it is closed."""
        self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = self._file.readline()
        if not line:
            raise ConnectionError("the twin has closed its control channel")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise InvalidValue(answer["error"])
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()
