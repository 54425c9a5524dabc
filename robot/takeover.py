"""A policy drives, and a person, or in simulation a script, takes over at any step and gives back, without a jump.

Whoever takes over begins where the last command was; the difference to their own goal is then taken away slowly. Names
and keys are LeRobot's: `intervention` (lerobot-rollout's strategy dagger), s, q and r (its keyboard teleoperators).
"""

from collections import deque

import numpy as np
from lerobot.utils.keyboard_input import create_key_listener
from lerobot.utils.pedal import start_pedal_listener

from robot.drivers import ScriptDriver
from robot.loop import Driver, Reading
from robot.safety.stops import FaultKind
from robot.so101 import SO101Sim
from sim.so101.experts import Unreachable

FADE_RAD_S = np.radians(30.0)
"""How fast the difference between the last command and the new driver's goal is taken away, per joint."""
WINDOW_S, MOVED_RAD = 0.2, np.radians(0.5)
"""A leader arm is moved if a joint's readings within this time differ by more than that."""
HELP = "space: take over, give back; s: success; q: no success; r: record this episode again"


class Keys:
    """What a person says by keys or a pedal. `said`: s, q or r, once pressed; `there`: whether there are keys."""

    def __init__(self):
        self._listener, self._swapped, self.said = None, False, ""

    def listen(self, pedal: str = "") -> None:
        """Begin to listen to the keyboard or terminal, and to a pedal (its device), each press of which is a space."""
        self._listener = create_key_listener(self.press)
        if pedal:
            start_pedal_listener(lambda _: self.press("space"), pedal)

    @property
    def there(self) -> bool:
        """Whether there is a keyboard."""
        return self._listener is not None

    def press(self, key: str) -> None:
        """Take note of a key, by LeRobot's name for it; others than those in HELP mean nothing."""
        self._swapped |= key == "space"
        self.said = key if key in ("s", "q", "r") else self.said

    def begin(self) -> None:
        """Forget what was said in the last episode."""
        self._swapped, self.said = False, ""

    def swapped(self) -> bool:
        """Return whether a space came since the last call."""
        swapped, self._swapped = self._swapped, False
        return swapped

    def close(self) -> None:
        """Give the terminal back."""
        if self._listener is not None:
            self._listener.stop()


class Person(Driver):
    """A person at the leader arm that `leader` reads. They drive once they move it by `moved_rad`, or press a key.

    They give back by a key, or, if `still_s` is not 0, by holding it still for so long. Only a leader that has been
    still since then takes over when it is moved: whoever gives back by a key still has a hand on it.
    """

    def __init__(self, leader: Driver, keys: Keys, hz: float, moved_rad: float, still_s: float = 0.0):
        self._leader, self._keys, self._moved_rad, self._still_steps = leader, keys, moved_rad, still_s * hz
        self._poses: deque[np.ndarray] = deque(maxlen=round(WINDOW_S * hz) + 1)
        self.close = leader.close  # type: ignore[method-assign]

    def begin(self, seed: int = 0) -> None:
        """Start an episode."""
        self._poses.clear()
        self._still, self._waits = 1, False  # control steps since the leader was moved; whether it may take over

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return where the leader is (6,), in rad. Raises DriverLost."""
        pose = self._leader.goal(reading, last)
        assert pose is not None
        self._poses.append(pose)
        moved = np.ptp(self._poses, axis=0).max() > self._moved_rad
        self._still = 0 if moved else self._still + reading.steps
        self._waits |= self._still >= (self._poses.maxlen or 0)
        return pose

    def wants(self, driving: bool) -> bool:
        """Return whether the person wants to drive; `driving`: whether they do."""
        if self._keys.swapped():
            self._waits = False
            return not driving
        return not 0 < self._still_steps <= self._still if driving else self._waits and not self._still


class Rescue(ScriptDriver):
    """A script that stands in for a person: it drives from `after_s` on, unless the task is done."""

    def __init__(self, robot: SO101Sim, after_s: float):
        super().__init__(robot)
        self._sim, self._after_s = robot, after_s

    def begin(self, seed: int = 0) -> None:
        """Start an episode."""
        self._due_s, self._seed, self._drives = self._sim.time_s + self._after_s, seed, False

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return the script's goal (6,) in rad, before it drives `last`; None once it is done."""
        return super().goal(reading, last) if self._drives else last

    def wants(self, driving: bool) -> bool:
        """Return whether the script drives: not where it cannot reach the object."""
        if not self._drives and not self._sim.success and self._sim.time_s >= self._due_s:
            try:
                super().begin(self._seed)
                self._drives = True
            except Unreachable:
                self._due_s += self._after_s
        return self._drives


class Takeover(Driver):
    """A `policy` that drives until the `other` wants to. `intervention`: whether the other drives now."""

    def __init__(self, policy: Driver, other: Person | Rescue, hz: float, keys: Keys | None = None):
        self._policy, self._other, self._keys, self._hz = policy, other, keys, hz
        self.intervention = False

    @property
    def started(self) -> bool:  # type: ignore[override]
        """Whether either moves the arm already."""
        return self.intervention or self._policy.started

    def begin(self, seed: int = 0) -> None:
        """Start an episode, which the policy begins."""
        self._policy.begin(seed)
        self._other.begin(seed)
        if self._keys is not None:
            self._keys.begin()
        self.intervention, self._over, self._seed = False, False, seed
        self._off: np.ndarray | None = np.zeros(6)  # of what is sent from the driver's goal; None: not known yet

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return the goal (6,) in rad of whoever drives; None at the second step after the person said how it ended."""
        if self._over:
            return None
        self._over = self._keys is not None and bool(self._keys.said)
        goal = self._other.goal(reading, last)
        if (wants := self._other.wants(self.intervention)) != self.intervention:
            self.intervention, self._off = wants, None
            if not wants:
                self._seed += 1
                self._policy.begin(self._seed)
        if self.intervention:
            self._policy.follow(reading, last)
        else:
            goal = self._policy.goal(reading, last)
        if goal is None:
            return None
        if self._off is None:
            self._off = last - goal if self.started else None
            return last
        most = FADE_RAD_S * reading.steps / self._hz
        self._off = self._off - np.clip(self._off, -most, most)
        return goal + self._off

    def watch(self, reading: Reading) -> tuple[FaultKind, str] | None:
        """Let the policy see what the arm shows, whoever drives."""
        return self._policy.watch(reading)

    def sent(self, target: np.ndarray) -> None:
        """Tell the policy what was sent while it drives."""
        if not self.intervention:
            self._policy.sent(target)

    def close(self) -> None:
        """Close both drivers."""
        self._policy.close()
        self._other.close()
