"""Faults that can be injected into the twin: a bad line, pulled cables, failing servos, a joint held by hand."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim import InvalidValue
from sim.so101.joints import JOINTS
from sim.twin.arm import TwinArm, finite

CABLES = ("usb", "power", *JOINTS)


@dataclass(frozen=True)
class FaultConfig:
    """Faults that begin `after_s` seconds after the first goal (0: at start) and last `for_s` seconds (0: for good).

    `lost`, `corrupted`: fraction of packets, in either direction, that vanish or have a byte changed. `slow_ms`: delay
    added to every reply. `dead`: a joint whose servo has failed. `overload`: a joint whose servo is in overload
    protection. `held`: a joint held by hand. `cable`: what is pulled out: `usb`, `power`, or a joint's lead (which also
    cuts off the joints behind it).
    """

    lost: float = 0.0
    corrupted: float = 0.0
    slow_ms: float = 0.0
    dead: str = ""
    overload: str = ""
    held: str = ""
    cable: str = ""
    after_s: float = 0.0
    for_s: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            known = CABLES if name == "cable" else JOINTS
            if isinstance(value, str) and value not in ("", *known):
                raise InvalidValue(f"faults.{name}={value}: one of {', '.join(known)}")
            if name in ("lost", "corrupted") and not 0 <= value <= 1:
                raise InvalidValue(f"faults.{name}={value}: a share, from 0 to 1")
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise InvalidValue(f"faults.{name}={value}: at least 0")


class Faults:
    """Begins and ends faults; the callback `plug` removes the host's port (False) or restores it (True).

    The line between host and servos loses or corrupts packets at the rates `lost` and `corrupted`; `slow_ms`: how late
    the twin sends replies. `counts`: injected faults by name.
    """

    def __init__(self, arm: TwinArm, plug: Callable[[bool], None], seed: int = 0):
        self._arm, self._plug, self._rng = arm, plug, np.random.default_rng(seed)
        self.lost = self.corrupted = self.slow_ms = 0.0
        self._out: set[str] = set()  # pulled cables, and dead servos as "dead <joint>"
        self.counts: Counter[str] = Counter()

    def transmit(self, data: bytes) -> bytes:
        """Return what arrives of a packet: at the set rates, nothing, or the packet with one byte changed."""
        if self.lost and self._rng.random() < self.lost:
            self.counts["lost"] += 1
            return b""
        if self.corrupted and self._rng.random() < self.corrupted:
            self.counts["corrupted"] += 1
            at = int(self._rng.integers(len(data)))
            changed = data[at] ^ int(self._rng.integers(1, 256))
            return data[:at] + bytes([changed]) + data[at + 1 :]
        return data

    def set_line(self, lost: float = 0.0, corrupted: float = 0.0, slow_ms: float = 0.0) -> None:
        """Set the line's fault rates and reply delay. Raises ValueError for a value out of range."""
        given = {"lost": lost, "corrupted": corrupted, "slow_ms": slow_ms}
        faults = FaultConfig(**{name: finite(name, value).item() for name, value in given.items()})
        self.lost, self.corrupted, self.slow_ms = faults.lost, faults.corrupted, faults.slow_ms

    def pull(self, cable: str) -> None:
        """Pull out a cable: `usb`, `power`, or the lead to a joint's servo. Raises ValueError for an unknown one."""
        self._take("cable", _known(cable=cable))

    def plug(self, cable: str) -> None:
        """Plug a cable back in. Raises ValueError for an unknown one."""
        self._out.discard(_known(cable=cable))
        self._rewire()

    def kill(self, joint: str) -> None:
        """Make a joint's servo fail until `mend`. Raises ValueError for an unknown joint."""
        self._take("dead", f"dead {_known(joint=joint)}")

    def overload(self, joint: str) -> None:
        """Put a joint's servo into overload protection. Raises ValueError for an unknown joint."""
        self._arm.servos[_known(joint=joint)].overload()
        self.counts["overload"] += 1

    def hold(self, joint: str, angle_rad: float | None = None) -> None:
        """Hold a joint by hand, at an angle or where it is. Raises ValueError for an unknown joint or invalid angle."""
        self._arm.hold(_known(joint=joint), None if angle_rad is None else finite("angle_rad", angle_rad).item())
        self.counts["held"] += 1

    def begin(self, faults: FaultConfig) -> None:
        """Begin all faults that the configuration asks for."""
        self.set_line(faults.lost, faults.corrupted, faults.slow_ms)
        starts = {"dead": self.kill, "overload": self.overload, "held": self.hold, "cable": self.pull}
        for name, start in starts.items():
            if where := getattr(faults, name):
                start(where)

    def mend(self) -> None:
        """End every fault, except that overload protection lasts until the servo's torque is switched."""
        self.set_line()
        self._out.clear()
        self._rewire()
        for joint in JOINTS:
            self._arm.let_go(joint)

    def _take(self, kind: str, what: str) -> None:
        self.counts[kind] += what not in self._out
        self._out.add(what)
        self._rewire()

    def _rewire(self) -> None:
        """Update port and power: each servo gets power through the leads of those before it, even if those are dead."""
        live = "power" not in self._out
        for joint in JOINTS:
            servo = self._arm.servos[joint]
            live = live and joint not in self._out
            wanted = live and f"dead {joint}" not in self._out
            if servo.powered and not wanted:
                servo.power_off()
            elif wanted and not servo.powered:
                servo.power_on()
        self._plug("usb" not in self._out)


def _known(**given: str) -> str:
    """Return the one cable or joint given. Raises ValueError for an unknown one."""
    ((what, name),) = given.items()
    known = CABLES if what == "cable" else JOINTS
    if name not in known:
        raise InvalidValue(f"{what}={name}: one of {', '.join(known)}")
    return name
