"""A checkpoint's planner behind a socket: in its own process on this machine, or at a remote address."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from policies.serving.messages import WrongMessage
from robot.safety.faults import in_one_line
from worldmodel.mistakes import Mistake

if TYPE_CHECKING:  # imported only when needed: PyTorch takes seconds
    from policies.serving.decider import Decider

LOCAL_SECRET = 32


def decider(checkpoint: Path, seed: int, device: str, threads: int, planned: bool = True) -> "Decider":
    """Return a warmed-up Decider for a checkpoint; arguments and errors as for `load_agent`."""
    from configs.runs.loading import load_agent
    from policies.serving.decider import Decider

    loaded = load_agent(checkpoint, seed, device, threads, planned)
    task = loaded.task
    found = Decider(loaded.agent, task.label, task.control or "", task.control_hz or 0.0)
    found.warm()
    return found


def main() -> None:
    """Run the planner's process: answer until the robot hangs up, or reject it with a reason.

    Ctrl-C is ignored here; the robot's process handles it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from policies.serving.connection import HANDSHAKE_S, Connection
    from policies.serving.server import converse, turn_away

    descriptor, checkpoint, seed, device, threads, planned = sys.argv[1:]
    secret = sys.stdin.buffer.read()
    found: Decider | str  # or why there is none
    try:
        found = decider(Path(checkpoint), int(seed), device, int(threads), planned == str(True))
    except (Mistake, OSError) as error:
        found = in_one_line(error)
    with contextlib.suppress(OSError, WrongMessage):  # the robot has gone, or has been told why
        connection = Connection(socket.socket(fileno=int(descriptor)), secret, True, HANDSHAKE_S)
        if isinstance(found, str):
            turn_away(connection, found)
        else:
            converse(connection, found)


class LocalPlanner:
    """A planner in its own process, which `reach` starts."""

    def __init__(self, checkpoint: Path, seed: int, device: str, threads: int, planned: bool = True):
        self.secret = os.urandom(LOCAL_SECRET)
        self._arguments = (str(checkpoint), str(seed), device, str(threads), str(planned))
        self._process: subprocess.Popen | None = None

    def reach(self) -> socket.socket:
        """Start a new process, after stopping any earlier one. Returns the robot's end of a socket to it.

        Raises OSError, with nothing left open.
        """
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            command = [sys.executable, "-P", "-m", "configs.arm.planning", str(theirs.fileno()), *self._arguments]
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
            assert process.stdin is not None
            with process.stdin as secretly:
                secretly.write(self.secret)
            unless_started.pop_all()
        return ours

    @property
    def pid(self) -> int:
        """The process ID of the running planner. Raises ValueError if none runs."""
        if self._process is None:
            raise ValueError("no planner is running")
        return self._process.pid

    def stop(self) -> None:
        """Terminate the process, if there is one, and wait for it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def remote_reach(address: tuple[str, int]):
    """Return a function that opens a socket to the planner at `address`, (host, port)."""
    return lambda: socket.create_connection(address, timeout=5.0)


if __name__ == "__main__":
    main()
