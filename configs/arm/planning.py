"""A checkpoint's planner behind a socket: in a process of its own on this machine, or at an address."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from policies.serving.messages import LONGEST_TEXT, Begin, WrongMessage
from robot.safety.faults import in_one_line
from worldmodel.mistakes import Mistake

LOCAL_SECRET = 32


def opened(checkpoint: Path, seed: int, device: str, threads: int, planned: bool = True):
    """A checkpoint's agent, not compiled, and the task it is for. Raises FolderError, ValueError."""
    from configs.runs.assembly import loaded_agent, prepare
    from configs.schema import MachineConfig
    from policies.storage.checkpoint import load_model, read_identity

    machine = prepare(MachineConfig(device, threads, "false"))
    identity = read_identity(checkpoint)
    model = load_model(checkpoint, identity).to(machine.device)
    return loaded_agent(identity, model, planned, seed)


def decider(checkpoint: Path, seed: int, device: str, threads: int, planned: bool = True):
    """What answers for a checkpoint, by its planner or its policy alone. Raises FolderError, ValueError."""
    from policies.serving.decider import Decider

    agent, task = opened(checkpoint, seed, device, threads, planned)
    found = Decider(agent, task.label, task.control or "", task.control_hz or 0.0)
    found.warm()
    return found


@dataclass(frozen=True)
class Unable:
    """In the place of what answers, where that cannot be: no robot is let in, and each is told `why`."""

    why: str

    def unfit(self, begin: Begin) -> str:
        """Why, in a line that fits into a message."""
        return self.why[:LONGEST_TEXT]


def main() -> None:
    """The process: answer until the robot hangs up, or tell it why not. Ctrl-C is for the robot's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from policies.serving.connection import HANDSHAKE_S, Connection
    from policies.serving.server import converse

    descriptor, checkpoint, seed, device, threads, planned = sys.argv[1:]
    secret = sys.stdin.buffer.read()
    try:
        found = decider(Path(checkpoint), int(seed), device, int(threads), planned == str(True))
    except (Mistake, OSError) as error:
        found = Unable(in_one_line(error))
    with contextlib.suppress(OSError, WrongMessage):  # the robot is gone or was told, which it knows
        converse(Connection(socket.socket(fileno=int(descriptor)), secret, True, HANDSHAKE_S), found)


class LocalPlanner:
    """A process that plans; `reach` starts it."""

    def __init__(self, checkpoint: Path, seed: int, device: str, threads: int, planned: bool = True):
        self.secret = os.urandom(LOCAL_SECRET)
        self._arguments = (str(checkpoint), str(seed), device, str(threads), str(planned))
        self._process: subprocess.Popen | None = None

    def reach(self) -> socket.socket:
        """The robot's end of a socket to a new process. Raises OSError, with nothing left open."""
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            command = [sys.executable, "-P", "-m", "configs.arm.planning", str(theirs.fileno()), *self._arguments]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
            with self._process.stdin as secretly:
                secretly.write(self.secret)
            unless_started.pop_all()
        return ours

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def remote_reach(address: tuple[str, int]):
    """What opens a socket to a planner elsewhere."""
    return lambda: socket.create_connection(address, timeout=5.0)


if __name__ == "__main__":
    main()
