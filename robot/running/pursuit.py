"""One episode's plans: requested before they are needed, started when due, and bridged by a stop while late."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from policies.planner_link.messages import Answer
from robot.running.eyes import Eyes
from robot.running.motion import Motion
from sim.so101.targets import Targets


class StateEstimator(Protocol):
    """Derives the task's state from the arm's joints (`envs.mirror`)."""

    @property
    def targets(self) -> Targets:
        """The conversion from the task's actions to joint targets."""

    def follow(self, reading: np.ndarray, sent: np.ndarray, bodies=None, steps: int = 1) -> None:
        """Take in a reading (6,) in rad, `steps` control steps after the target `sent` (6,)."""

    def state(self, ahead: np.ndarray) -> np.ndarray:
        """Return the predicted state (S,) after the targets `ahead` (n, 6)."""

    def success(self) -> bool:
        """Return whether the task is done now."""


class Thinker(Protocol):
    """The planner's interface (`policies.planner_link.client`)."""

    def ask(self, state: np.ndarray, fresh: bool, frames: list[np.ndarray], there: np.ndarray) -> int | None:
        """Request a curve from `state` (S,); return the question's number, None if no planner can be asked now.

        `fresh`: forget the last plan (an episode begins, or the arm stopped). `frames` and `there`: see `Eyes.now`.
        """

    def awaits(self, number: int) -> bool:
        """Return whether the answer to that question may still come."""

    def poll(self) -> list[Answer]:
        """Return the answers that have come; their actions are (L, 6)."""

    def gone(self) -> str:
        """Return why no planner can be asked any more; "" while there is one, or may be again."""


@dataclass
class Plans:
    """Planning statistics: `late` of `count` curves missed their start; times in ms, in the planner and round trip."""

    count: int = 0
    late: int = 0
    plan_ms: list[float] = field(default_factory=list)
    round_ms: list[float] = field(default_factory=list)


class Pursuit:
    """Follows curves from a planner that is asked `lead` control steps before each is due, one question at a time.

    A late curve begins when it arrives. One that is later than its own length is discarded and requested anew, unless
    it was requested at rest: then the arm is still where the curve begins.
    """

    def __init__(self, senses: StateEstimator, eyes: Eyes, thinker: Thinker, motion: Motion, lead: int, plans: Plans):
        self._senses, self._eyes = senses, eyes
        self._thinker, self._motion, self._plans = thinker, motion, plans
        self._lead, self._late = lead, -1  # control steps since the next curve was due; -1: not due
        self._asked: tuple[int, float] | None = None  # the question's number, and when it was asked
        self._from_rest = True
        self._next: Answer | None = None
        self._fresh, self.waiting = True, False  # waiting: for a late curve
        self.answer: Answer | None = None  # the one being followed

    @property
    def moving(self) -> bool:
        """Whether there is a curve to follow, i.e. the episode has begun."""
        return self.answer is not None

    def target(self, last: np.ndarray, steps: int = 1) -> np.ndarray:
        """Return the target (6,) in rad to send now; `last` (6,) was sent `steps` control steps before."""
        self._late += steps
        self._hear()
        if not self._motion.left:
            if self._next is not None:
                self.answer, self._next, self.waiting = self._next, None, False
                self._motion.begin(self.answer.actions)
            elif self.moving and not self.waiting:
                self._plans.late += 1
                self.waiting = True
        if self._motion.left:
            self._late = -1
        return self._motion.next(last)

    def think(self, last: np.ndarray) -> None:
        """Request the next curve if it is time to, now that the target `last` (6,) has been sent."""
        if self._asked is not None and not self._thinker.awaits(self._asked[0]):
            self._asked = None  # the planner was lost
        if self._asked is not None or self._next is not None or self._motion.left > self._lead:
            return
        state = self._senses.state(self._motion.ahead(last))
        stopped = not self._motion.left  # no curve to continue from
        number = self._thinker.ask(state, self._fresh or stopped, *self._eyes.now())
        if number is not None:
            self._asked, self._late = (number, time.perf_counter()), -1
            self._from_rest = self._motion.still

    def _hear(self) -> None:
        for answer in self._thinker.poll():
            if self._asked is None or answer.number != self._asked[0]:
                continue
            self._plans.count += 1
            self._plans.plan_ms.append(answer.plan_ms)
            self._plans.round_ms.append(1000 * (time.perf_counter() - self._asked[1]))
            self._asked, self._fresh = None, False
            if self._from_rest or self._late <= len(answer.actions):
                self._next = answer
