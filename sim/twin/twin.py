"""The twin: settings, serial port, and the loop that answers port and control requests and steps the physics."""

import math
import os
import pty
import selectors
import signal
import time
import tty
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

from sim import InvalidValue
from sim.twin.arm import TwinArm
from sim.twin.control import LONGEST_SOCKET, ControlServer, control_of
from sim.twin.faults import FaultConfig, Faults
from sim.twin.servo import Bus, Framer, cut

FAULTS = ("pull", "plug", "kill", "overload", "hold", "mend")
CHUNK = 4096


@dataclass(frozen=True)
class TwinConfig:
    """The settings of semagram-twin."""

    port_file: str = ""
    scene: str = ""
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        if not self.port_file:
            raise InvalidValue("port_file=: a file to write the port's name to, e.g. port_file=runs/twin/port")
        if len(str(self.control_path).encode()) > LONGEST_SOCKET:
            raise InvalidValue(f"port_file={self.port_file}: {self.control_path} has more than {LONGEST_SOCKET} bytes")

    @property
    def control_path(self) -> Path:
        """Path of the control channel's socket."""
        return control_of(Path(self.port_file))

    @property
    def calibration_path(self) -> Path:
        """Path of the calibration file: `twin.json` beside the port file."""
        return Path(self.port_file).with_name("twin.json")


class Port:
    """The twin's end of a pseudo-terminal; `name` is the host's end, empty while unplugged."""

    def __init__(self):
        self.plug()

    def plug(self) -> None:
        """Create the terminal; the kernel chooses its name, as it does for a USB adapter."""
        self._ours, self._theirs = pty.openpty()  # theirs stays open so that hosts may come and go
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.name = os.ttyname(self._theirs)

    def unplug(self) -> None:
        """Remove the terminal: a host that has it open gets an I/O error, as from a pulled USB cable."""
        os.close(self._ours)
        os.close(self._theirs)
        self._ours = self._theirs = -1
        self.name = ""

    @property
    def plugged(self) -> bool:
        """Whether the terminal exists."""
        return bool(self.name)

    def fileno(self) -> int:
        """Return the file descriptor of our end, for a selector; -1 while unplugged."""
        return self._ours

    def read(self) -> bytes:
        """Return up to CHUNK bytes that the host has sent; empty if there are none or the port is unplugged."""
        with suppress(BlockingIOError):
            return os.read(self._ours, CHUNK) if self.plugged else b""
        return b""

    def write(self, data: bytes) -> None:
        """Send to the host; if the host does not read, data that does not fit into the buffer is lost."""
        with suppress(BlockingIOError):
            os.write(self._ours, data)


class Twin:
    """Serves `arm` on a pseudo-terminal until stopped; calls `announce(name)` for each new port, '' when it is gone."""

    def __init__(self, arm: TwinArm, faults: FaultConfig, control_path: Path, announce: Callable[[str], None]):
        """Open the control channel and the port. Raises OSError if the control channel cannot be opened."""
        self.arm, self._wanted, self._announce = arm, faults, announce
        self._bus, self._framer = Bus(arm.servos.values()), Framer()
        self._selector = selectors.SelectSelector()
        self._late: deque[tuple[float, bytes]] = deque()
        self._first_goal_s: float | None = None
        self._begun = self._ended = self.stopped = False
        self._packets = self._replies = 0
        self._control = ControlServer(control_path, self._selector, self._request)
        self._port = Port()
        self._selector.register(self._port, selectors.EVENT_READ, self._hear)
        self._faults = Faults(arm, self._plug, faults.seed)

    def __enter__(self) -> "Twin":
        return self

    def __exit__(self, *_) -> None:
        """Close the port and the control channel."""
        self._plug(False)
        self._control.close()
        self._selector.close()

    def run(self) -> dict:
        """Serve until SIGINT, SIGTERM or a request to stop; return the `summary`."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        self._announce(self._port.name)
        while not self.stopped:
            self._turn()
        return self.summary()

    def _stop(self, *_) -> None:
        self.stopped = True

    def _turn(self) -> None:
        """Run one iteration of the loop: wait for input or the next due time, then handle it."""
        due = min(self.arm.due_s, self._late[0][0] if self._late else math.inf)
        for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
            key.data()
        self._send_late()
        self._schedule(time.monotonic())
        self.arm.advance(time.monotonic())

    def _hear(self) -> None:
        """Read and answer what the host has sent."""
        heard, data = time.monotonic(), self._port.read()
        if not data:
            return
        arrived = b"".join(map(self._faults.transmit, cut(data)))  # several packets if the machine is busy
        for packet in self._framer.feed(arrived, heard):
            replies = self._bus.answer(packet)
            self._packets += 1
            self._replies += len(replies)
            arriving = b"".join(self._faults.transmit(reply) for reply in replies)
            if self._faults.slow_ms:
                self._faults.counts["slow"] += len(replies)
                self._late.append((heard + self._faults.slow_ms / 1000, arriving))
            elif arriving:
                self._port.write(arriving)

    def _send_late(self) -> None:
        """Send delayed replies that are due; drop them once the line is no longer slow."""
        if not self._faults.slow_ms:
            self._late.clear()
        while self._late and self._late[0][0] <= time.monotonic():
            _, reply = self._late.popleft()
            if self._port.plugged:
                self._port.write(reply)

    def _schedule(self, now_s: float) -> None:
        """Begin and end the configured faults when due."""
        wanted = self._wanted
        if self._first_goal_s is None:
            if wanted.after_s and not any(servo.commanded for servo in self.arm.servos.values()):
                return
            self._first_goal_s = now_s
        since = now_s - self._first_goal_s - wanted.after_s
        if not self._begun and since >= 0:
            self._begun = True
            self._faults.begin(wanted)
        if self._begun and not self._ended and wanted.for_s and since >= wanted.for_s:
            self._ended = True
            self._faults.mend()

    def _plug(self, plugged: bool) -> None:
        """Plug in or unplug the port if its state differs, and announce it."""
        if plugged == self._port.plugged:
            return
        if plugged:
            self._port.plug()
            self._selector.register(self._port, selectors.EVENT_READ, self._hear)
        else:
            self._selector.unregister(self._port)
            self._port.unplug()
            self._late.clear()
        self._announce(self._port.name)

    def _request(self, request: dict) -> dict:
        """Carry out a request from the control channel. Raises ValueError for an invalid one."""
        verbs: dict[str, Callable[..., dict | None]] = {
            "state": lambda: {**self.arm.state(), "port": self._port.name, **self.summary()},
            "reset": self.arm.reset,
            "line": self._faults.set_line,
            **{verb: getattr(self._faults, verb) for verb in FAULTS},
            "stop": self._stop,
        }
        verb = request.pop("do", None)
        if not isinstance(verb, str) or verb not in verbs:
            raise InvalidValue(f"do={verb}: one of {', '.join(verbs)}")
        try:
            signature(verbs[verb]).bind(**request)
        except TypeError as error:
            raise InvalidValue(f"{verb}: {error}") from error
        return verbs[verb](**request) or {}

    def summary(self) -> dict:
        """Return statistics so far: packets, replies, packets with a wrong checksum, dropped time, faults."""
        return {
            "packets": self._packets,
            "replies": self._replies,
            "spoilt_packets": self._framer.spoilt,
            "dropped_s": round(self.arm.dropped_s, 3),
            "faults": dict(self._faults.counts),
        }
