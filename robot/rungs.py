"""What an arm does by itself on a rung of the planner's ladder (`policies.ladder`): it backs off, rests to ask, stops.

And how it notices that it presses against something, or is held: a joint stays away from where it is sent.
"""

from collections import deque

import numpy as np

from policies.ladder import ASK, BACK_OFF, STOP
from robot.loop import Reading
from sim.so101.joints import JOINTS

BACK_S = 0.33  # for how long an arm backs off along the targets that it was sent last
HELD_RAD, HELD_S, TRIES = 0.14, 0.2, 2
"""A joint is held that for so long stays so far (more than it sags) from where it is sent; back-offs of an episode."""


class Rungs:
    """The rung an arm is on. `back`: targets (6,) to send again, the last first; `stuck`: why it stops, or ""."""

    def __init__(self, hz: float):
        self.back, self.stuck, self.asking = list[np.ndarray](), "", False
        self._hz, self._tries = hz, 0
        self._path: deque[np.ndarray] = deque(maxlen=1 + round(BACK_S * hz))  # the last targets sent
        self._place: np.ndarray = np.zeros(6)  # where each joint was when it moved last
        self._held_for: np.ndarray = np.zeros(6)  # control steps

    def take(self, rung: str, why: str) -> None:
        """Begin a rung; `why`, in a line."""
        self.back = [*self._path][:-1] if rung == BACK_OFF else []
        self.stuck, self.asking = why if rung == STOP else "", rung == ASK

    def sent(self, target: np.ndarray) -> None:
        """Note a target (6,) that was sent."""
        self._path.append(target)

    def held(self, reading: Reading, last: np.ndarray) -> tuple[str, str] | None:
        """Return the rung to take and why, if a joint (but for the gripper) has just been found to be held."""
        moved = np.abs(reading.joints - self._place) > HELD_RAD / 4
        off = np.abs(last - reading.joints) > HELD_RAD
        self._place = np.where(moved, reading.joints, self._place)
        self._held_for = np.where(off & ~moved, self._held_for + reading.steps, 0)
        joint = int(np.argmax(self._held_for[:-1]))
        if self._held_for[joint] < HELD_S * self._hz:
            return None
        self._held_for, self._tries = np.zeros(6), self._tries + 1
        rung = STOP if self._tries > TRIES else BACK_OFF
        return rung, f"{rung}: {JOINTS[joint]} does not go where it is sent; is it held, or against something?"
