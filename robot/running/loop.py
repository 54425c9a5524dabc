"""The control loop: read, follow the current curve, send through the gate; meanwhile the next curve is planned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot.running.eyes import Eyes
from robot.running.motion import Motion
from robot.running.pursuit import Plans, Pursuit, StateEstimator, Thinker
from robot.running.smoothness import Smoothness
from robot.safety.faults import Fault, FaultKind, NotReleasable
from robot.safety.gate import Gate
from robot.safety.gated import SUFFIX, GatedRobot
from robot.ticks import Ticks
from robot.units import Units

FIRST_S = 5.0
"""An episode's time starts with its first plan, or after this long if none has come by then."""
NEAR_RAD, SLOW_RAD_S = 0.1, 0.8


@dataclass(frozen=True)
class Moment:
    """What a view can show after a tick.

    `late_s`: how late the tick began; `work_s`: from its beginning until the command was sent; `measured`: the joint
    reading that the command responded to, in the robot's units; `frames`: what each camera shows the model, (H, W, 3)
    uint8.
    """

    episode: int
    seconds: float
    rate_hz: float
    late_s: float
    work_s: float
    pursuit: Pursuit
    plans: Plans
    robot: GatedRobot
    measured: list[float]
    frames: dict[str, np.ndarray]


class Shows(Protocol):
    """The interface of a view (`robot.running.view`)."""

    def __call__(self, moment: Moment) -> None:
        """Show a tick."""

    def say(self, text: str) -> None:
        """Print a line."""


class Loop:
    """Runs episodes of a task on an arm. Angles are in rad; the robot's own units occur only at its interface.

    `ticks` use the robot's own clock. `lead`: how many control steps before a curve ends the next one is requested,
    from the state predicted for its end. `bodies`: returns where the objects of a simulated scene are; `eyes`: what the
    robot's cameras show; `judged`: whether success can be determined, which requires knowing where things are. `show`
    is called with a Moment after each tick.
    """

    def __init__(
        self,
        robot: GatedRobot,
        units: Units,
        senses: StateEstimator,
        thinker: Thinker,
        ticks: Ticks,
        lead: int,
        show: "Shows",
        bodies: Callable[[], object] = lambda: None,
        eyes: Eyes | None = None,
        judged: bool = True,
    ):
        self.robot, self.ticks, self.plans = robot, ticks, Plans()
        self.smoothness = Smoothness(ticks.hz)
        self.successes: list[bool | None] = []
        self.faults: list[str] = []
        self._units, self._senses, self._thinker, self._lead = units, senses, thinker, lead
        self._bodies, self.show, self.eyes = bodies, show, eyes or Eyes()
        self._judged = judged
        self._sent: np.ndarray | None = None  # the last target sent, None after the arm was moved otherwise
        self._observed_at = ticks.clock.monotonic()  # when the last reading was begun, on the robot's clock
        self._keys = [name + SUFFIX for name in robot.gate.limits.names]

    def read(self) -> np.ndarray:
        """Return the positions (6,) of the joints."""
        return self._rad(self._observe())

    def send(self, target: np.ndarray) -> np.ndarray:
        """Send a target (6,), decided from the last reading, through the gate; return what was sent."""
        values = self._units.from_rad(target).tolist()
        action = dict(zip(self._keys, values, strict=True))
        self._sent = self._rad(self.robot.send_action(action, self._observed_at))
        return self._sent

    def placed(self, gate: Gate) -> None:
        """Continue from where the arm was put by other means, with a gate that has no history."""
        self.robot.gate, self._sent = gate, None

    def approach(self, place: np.ndarray, patience_s: float = 15.0) -> str:
        """Move the joints slowly to `place` (6,).

        Returns "" once they are near it, else why they are not: a fault, or `patience_s` seconds past the planned
        arrival.
        """
        start = here = self.read()
        steps = max(1, round(float(np.abs(place - start).max()) / SLOW_RAD_S * self.ticks.hz))
        for i in self.ticks.run(steps + round(patience_s * self.ticks.hz)):
            here = self.read()
            if i >= steps and np.abs(here - place).max() < NEAR_RAD:
                return ""
            self.send(start + (place - start) * min(1.0, (i + 1) / steps))
            if self.robot.fault is not None:
                self._rest()
                return str(self.robot.fault)
        joint = int(np.argmax(np.abs(here - place)))
        off = np.degrees(here - place)[joint]
        return f"{self.robot.gate.limits.names[joint]} is {off:+.1f} degrees off after {patience_s:g} s"

    def episode(self, seconds: float) -> bool | None:
        """Run one episode from where the arm is; return whether the task was done at any step, None if that is unknown.

        A fault ends the episode as not done.
        """
        motion = Motion(self._senses.targets, self.ticks.hz)
        pursuit = Pursuit(self._senses, self.eyes, self._thinker, motion, self._lead, self.plans)
        self.eyes.forget()
        self.smoothness.begin()
        sent, done, began = self.read() if self._sent is None else self._sent, False, None
        first, last = round(FIRST_S * self.ticks.hz), -1
        for i in self.ticks.run(first + round(seconds * self.ticks.hz)):
            observation, steps, last = self._observe(), i - last, i
            reading = self._rad(observation)
            if np.isfinite(reading).all():  # otherwise the gate stops the arm
                self._senses.follow(reading, sent, self._bodies(), steps)
            sent = self.send(pursuit.target(sent, steps))
            self.smoothness.take(sent, steps)
            worked = self.ticks.clock.monotonic() - self._observed_at
            self.eyes.see(observation, steps)
            if self.robot.fault is not None:
                self._rest()
                done = False
                break
            began = i if began is None and (pursuit.moving or i >= first) else began
            passed = 0.0 if began is None else (i - began) / self.ticks.hz
            if began is not None and self._judged:
                done = done or self._senses.success()
            if passed >= seconds:
                break
            pursuit.think(sent)
            self._watch()
            number, late = len(self.successes) + 1, self.ticks.late_s[-1]
            measured, frames = [observation[key] for key in self._keys], self.eyes.newest
            rate, plans = self.ticks.rate_hz, self.plans
            self.show(Moment(number, passed, rate, late, worked, pursuit, plans, self.robot, measured, frames))
        self.successes.append(done if self._judged else None)
        return self.successes[-1]

    def recover(self, patience_s: float = 5.0) -> bool:
        """Release the gate once the cause of its fault is gone; return whether that happened within `patience_s`.

        Never releases after a joint stalled or the arm was pushed (a person must look first, or is holding it), nor
        without a planner.
        """
        self._thinker.poll()  # discard answers to the ended episode's questions
        fault = self.robot.fault
        if self._thinker.gone() or (fault is not None and fault.kind in (FaultKind.STALLED, FaultKind.PUSHED)):
            return False
        for _ in self.ticks.run(round(patience_s * self.ticks.hz)):
            observation = self._observe()
            self.eyes.see(observation)
            self.send(self._rad(observation))
            if self.eyes.blind:
                continue
            try:
                self.robot.release()
            except NotReleasable:
                continue
            self._sent = None
            return True
        return False

    def _watch(self) -> None:
        """Trip the gate if the planner is gone, or if nothing to act on has been seen for too long."""
        now = self.ticks.clock.monotonic()
        if why := self._thinker.gone():
            self.robot.gate.trip(Fault(FaultKind.PLANNER, why, now))
        if self.eyes.blind:
            through = ", ".join(self.eyes.cameras)
            why = f"nothing to be seen through {through}, and the checkpoint has no other sense"
            self.robot.gate.trip(Fault(FaultKind.BLIND, why, now))

    def _observe(self) -> dict:
        self._observed_at = self.ticks.clock.monotonic()
        return self.robot.get_observation()

    def _rest(self) -> None:
        """Record the fault, and continue through the gate until the arm is at rest, for at most 5 s."""
        self.faults.append(str(self.robot.fault))
        self.show.say(f"stopped: {self.robot.fault}")
        for _ in self.ticks.run(round(5 * self.ticks.hz)):
            self.send(self.read())
            if (command := self.robot.command) is not None and command.resting:
                return

    def _rad(self, values: dict[str, float]) -> np.ndarray:
        return self._units.to_rad(np.array([values[key] for key in self._keys], float))
