"""What can go wrong with the twin, begun and ended by name: the line, the cables, the servos, a hand on a joint."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from sim.finite import finite
from sim.impossible import Impossible
from sim.joints import JOINTS
from sim.twin.arm import TwinArm
from sim.twin.settings import CABLES, FaultConfig


class Line:
    """The wire between host and servos: passes transfers on, loses or corrupts some, makes replies late."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self.lost = self.corrupted = self.slow_ms = 0.0
        self.counts: Counter[str] = Counter()

    def carry(self, data: bytes) -> bytes:
        """What arrives of a packet: nothing, or one byte of it changed, at the set rates."""
        if self.lost and self._rng.random() < self.lost:
            self.counts["lost"] += 1
            return b""
        if self.corrupted and self._rng.random() < self.corrupted:
            self.counts["corrupted"] += 1
            at = int(self._rng.integers(len(data)))
            changed = data[at] ^ int(self._rng.integers(1, 256))
            return data[:at] + bytes([changed]) + data[at + 1 :]
        return data


class Faults:
    """Begins and ends faults; `plug(False)` and `plug(True)` take the port away from the host and give it back."""

    def __init__(self, arm: TwinArm, line: Line, plug: Callable[[bool], None]):
        self._arm, self._line, self._plug = arm, line, plug
        self._out: set[str] = set()  # cables that are pulled, servos that are dead (as "dead <joint>")
        self.counts: Counter[str] = Counter()

    def set_line(self, lost: float = 0.0, corrupted: float = 0.0, slow_ms: float = 0.0) -> None:
        """Set how the line fares from now on. Raises ValueError for a value out of range."""
        given = {"lost": lost, "corrupted": corrupted, "slow_ms": slow_ms}
        faults = FaultConfig(**{name: finite(name, value).item() for name, value in given.items()})
        self._line.lost, self._line.corrupted, self._line.slow_ms = faults.lost, faults.corrupted, faults.slow_ms

    def pull(self, cable: str) -> None:
        """Pull a cable out: `usb`, `power`, or the lead to a joint's servo. Raises ValueError."""
        self._take("cable", cable, _one_of("cable", cable, CABLES))

    def plug(self, cable: str) -> None:
        """Put a cable back. Raises ValueError."""
        self._give(_one_of("cable", cable, CABLES))

    def kill(self, joint: str) -> None:
        """Let a joint's servo die. Raises ValueError."""
        self._take("dead", joint, f"dead {_one_of('joint', joint, JOINTS)}")

    def revive(self, joint: str) -> None:
        """Put a new servo in its place, set up as the old one was. Raises ValueError."""
        self._give(f"dead {_one_of('joint', joint, JOINTS)}")

    def overload(self, joint: str) -> None:
        """Make a joint's servo protect itself. Raises ValueError."""
        self._arm.servos[_one_of("joint", joint, JOINTS)].overload()
        self.counts["overload"] += 1

    def hold(self, joint: str, angle_rad: float | None = None) -> None:
        """Hold a joint by hand, at an angle or where it is. Raises ValueError."""
        _one_of("joint", joint, JOINTS)
        self._arm.hold(joint, None if angle_rad is None else finite("angle_rad", angle_rad).item())
        self.counts["held"] += 1

    def let_go(self, joint: str) -> None:
        """Let go of a joint. Raises ValueError."""
        self._arm.let_go(_one_of("joint", joint, JOINTS))

    def begin(self, faults: FaultConfig) -> None:
        """Begin all that the configuration asks for."""
        self.set_line(faults.lost, faults.corrupted, faults.slow_ms)
        for start, name in (
            (self.kill, faults.dead),
            (self.overload, faults.overload),
            (self.hold, faults.held),
            (self.pull, faults.cable),
        ):
            if name:
                start(name)

    def mend(self) -> None:
        """End every fault; a servo in overload protection stays in it until its torque is switched."""
        self.set_line()
        for out in sorted(self._out):
            self._give(out)
        for joint in JOINTS:
            self._arm.let_go(joint)

    def _take(self, kind: str, name: str, out: str) -> None:
        if out not in self._out:
            self.counts[kind] += 1
            self._out.add(out)
            self._rewire()

    def _give(self, out: str) -> None:
        if out in self._out:
            self._out.remove(out)
            self._rewire()

    def _rewire(self) -> None:
        """Give power to the servos that have a way to it; a servo in the chain also passes it on."""
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


def _one_of(what: str, name: str, known: tuple[str, ...]) -> str:
    if name not in known:
        raise Impossible(f"{what}={name}: one of {', '.join(known)}")
    return name
