"""The one control loop on an arm: read it, get a goal from the driver, send it through the gate, hand the step on.

Angles are in rad, as MuJoCo's; the robot's own units occur only where it is read and commanded.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robot.safety.gate import Margins
from robot.safety.gated import GatedRobot
from robot.safety.stops import Fault, FaultKind, NotReleasable
from robot.ticks import Ticks
from sim.so101.joints import Units

FIRST_S = 5.0  # an episode's time starts once its driver has started, or after this long if it has not
NEAR_RAD, SLOW_RAD_S, SHARE = 0.1, 0.8, 0.5
"""An arm is moved to a place at most this fast, and at most at this share of its limits' rates, to within NEAR_RAD."""


@dataclass(frozen=True)
class Reading:
    """What the arm reported at one step.

    `observation`: as LeRobot gives it; `values` (6,): its joints in the robot's units, in the gate's order; `joints`
    (6,): the same in rad; `at`: when the reading began, in seconds of the robot's clock; `steps`: control steps since
    the reading before, more than 1 where ticks were left out.
    """

    observation: dict
    values: np.ndarray
    joints: np.ndarray
    at: float
    steps: int = 1


class Driver:
    """Chooses goals: here, to stay put. `started`: whether it moves the arm already; an episode's time begins then."""

    started = True
    waited, waits = 0, 0
    """Control steps of the episode for which it waited for a person, which do not count; how many there may be."""

    def begin(self, seed: int = 0) -> None:
        """Start an episode; the arm is where the episode begins."""

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return goals (6,) in rad, None at the episode's end; `last` (6,): what was sent. Raises an error if lost."""
        return last

    def follow(self, reading: Reading, last: np.ndarray) -> None:
        """Take in a reading in place of `goal` while another driver decides."""

    def watch(self, reading: Reading) -> tuple[FaultKind, str] | None:
        """Take in what need not delay the goal; return the fault for which the arm must stop, if there is one."""

    def sent(self, target: np.ndarray) -> None:
        """Take note that the target (6,) was sent; called after `watch`."""

    def close(self) -> None:
        """Release the driver's resources."""


@dataclass(frozen=True)
class Step:
    """One step of an episode, as sinks get it.

    `number`: from 0 in its `episode`, which counts from 1; `at_s`: seconds since the episode's first reading; `sent`
    (6,): the target sent, in rad; `action`: the same as LeRobot has it; `success`: whether the task was done after it,
    None if unknown; `late_s`: how late the tick began; `work_s`: from its beginning until the command was sent.
    """

    episode: int
    number: int
    at_s: float
    reading: Reading
    sent: np.ndarray
    action: dict[str, float]
    success: bool | None
    margins: Margins
    rate_hz: float
    late_s: float
    work_s: float


Sink = Callable[[Step], object]  # what becomes of a step: a data set, a view, a statistic


class Smoothness:
    """Over all targets sent: their mean squared jerk in rad^2/s^6, and the largest step of a joint in rad.

    The jerk, averaged over joints and time, is what reaching hands minimise: Flash & Hogan 1985, eq. 1. It is the third
    difference of targets one control step apart, times the rate cubed, so the first three targets of an episode, or
    after a skipped tick, have none. `joints`: of a loop's steps, those that count.
    """

    def __init__(self, hz: float, joints: slice = slice(None)):
        self._hz, self._joints = hz, joints
        self._last: deque[np.ndarray] = deque(maxlen=4)
        self._squares, self._count = 0.0, 0
        self.largest_step = 0.0

    def __call__(self, step: Step) -> None:
        """Take in a step of a loop."""
        target = step.sent[self._joints]
        if step.number == 0 or step.reading.steps > 1:
            self._last.clear()
        self._last.append(target)
        if len(self._last) > 1:
            self.largest_step = max(self.largest_step, float(np.abs(target - self._last[-2]).max()))
        if len(self._last) == self._last.maxlen:
            jerk = np.diff(self._last, 3, axis=0) * self._hz**3
            self._squares, self._count = self._squares + float(np.square(jerk).mean()), self._count + 1

    @property
    def mean_squared_jerk(self) -> float:
        """In rad^2/s^6; NaN before there is any."""
        return self._squares / self._count if self._count else math.nan

    def summary(self) -> dict[str, float | None]:
        """Return largest_step_deg and mean_squared_jerk (rad^2/s^6), which is None if too few targets were sent."""
        jerk = round(self.mean_squared_jerk, 3) if self._count else None
        return {"largest_step_deg": round(math.degrees(self.largest_step), 3), "mean_squared_jerk": jerk}


class Loop:
    """Runs episodes, and whatever moves the arm between them. `ticks` use the robot's own clock.

    `sinks` get every step of an episode in which no fault was found; `say` (str) gets lines for people. `faults`: what
    the arm was stopped for, in order.
    """

    def __init__(self, robot: GatedRobot, units: Units, ticks: Ticks, sinks: Sequence[Sink] = (), say=print):
        self.robot, self.ticks, self.say, self.faults = robot, ticks, say, list[str]()
        self._units, self._sinks = units, sinks
        self._sent: np.ndarray | None = None  # the last target sent, None after the arm was moved otherwise
        self._episodes = 0

    def read(self, steps: int = 1) -> Reading:
        """Read the arm, `steps` control steps after the last reading."""
        at = self.ticks.clock.monotonic()
        observation = self.robot.get_observation()
        values = self.robot.values(observation)
        return Reading(observation, values, self._units.to_rad(values), at, steps)

    def send(self, target: np.ndarray, reading: Reading) -> dict[str, float]:
        """Send a target (6,), decided from `reading`, through the gate; return what was sent, as LeRobot has it."""
        action = self.robot.send_action(self._units.from_rad(target), reading.at)
        self._sent = self._units.to_rad(self.robot.values(action))
        return action

    def moved(self) -> None:
        """Start anew where the arm is: it was moved by other means. A fault stays latched."""
        self.robot.forget()
        self._sent = None

    def rest(self) -> None:
        """Brake to rest before a pause; see GatedRobot."""
        self.robot.rest()
        self._sent = None

    def move_to(self, place: np.ndarray, patience_s: float = 15.0) -> str:
        """Move the joints slowly to `place` (6,); return "" once near, else a fault or how far off they stay."""
        hz, fastest = self.ticks.hz, self._units.spans(self.robot.gate.limits.column("rate"))
        start = self.read().joints
        seconds = np.abs(place - start) / np.minimum(SLOW_RAD_S, SHARE * fastest)
        steps = max(1, round(float(seconds.max()) * hz))
        for i in self.ticks.run(steps + round(patience_s * hz)):
            reading = self.read()
            off = reading.joints - place
            if i >= steps and np.abs(off).max() < NEAR_RAD:
                return ""
            self.send(start + (place - start) * min(1.0, (i + 1) / steps), reading)
            if self.robot.fault is not None:
                self._rest()
                return str(self.robot.fault)
        joint = int(np.argmax(np.abs(off)))
        name, degrees = self.robot.gate.limits.names[joint], np.degrees(off[joint])
        return f"{name} is {degrees:+.1f} degrees off after {patience_s:g} s"

    def episode(self, driver: Driver, steps: int, judge: Callable[[], bool] | None = None) -> bool | None:
        """Run an episode to its end, for `steps` control steps at most; return whether `judge` found it done."""
        self._episodes += 1
        done = None if judge is None else False
        first, last = 0 if driver.started else round(FIRST_S * self.ticks.hz), -1
        began: int | None = None
        start = self.ticks.clock.monotonic()
        for number, i in enumerate(self.ticks.run(first + steps + driver.waits)):
            if (began is not None and i - began - driver.waited >= steps) or i - driver.waited >= first + steps:
                break
            reading, last = self.read(i - last), i
            start = reading.at if number == 0 else start
            before = reading.joints if self._sent is None else self._sent
            goal = driver.goal(reading, before)
            if goal is None:
                break
            action, sent = self.send(goal, reading), self._sent
            assert sent is not None
            work_s = self.ticks.clock.monotonic() - reading.at
            trouble = driver.watch(reading)
            if self.robot.fault is not None:
                self._rest()
                return None if judge is None else False
            began = i if began is None and (driver.started or i - driver.waited >= first) else began
            success = None if judge is None or began is None else bool(judge())
            done = bool(done or success) if success is not None else done
            driver.sent(sent)
            if trouble is not None:
                self.robot.gate.trip(Fault(*trouble, self.ticks.clock.monotonic()))
            made = (reading.at - start, reading, sent, action, success, self.robot.margins)
            step = Step(self._episodes, number, *made, self.ticks.rate_hz, self.ticks.late_s[-1], work_s)
            for sink in self._sinks:
                sink(step)
        if self.robot.fault is not None:  # found in the last step
            self._rest()
        return done

    def recover(self, driver: Driver, patience_s: float = 5.0) -> bool:
        """Release the gate once the cause of its fault is gone; return whether that happened within `patience_s`.

        Never releases after a joint stalled, the arm was pushed or the agent was stuck (a person must look first, or is
        holding it), nor while the driver could not go on.
        """
        fault = self.robot.fault
        looked_at = FaultKind.STALLED, FaultKind.PUSHED, FaultKind.STUCK, FaultKind.PLANNER
        if fault is not None and fault.kind in looked_at:
            return False
        for _ in self.ticks.run(round(patience_s * self.ticks.hz)):
            reading = self.read()
            trouble = driver.watch(reading)
            self.send(reading.joints, reading)
            if trouble is not None:
                continue
            try:
                self.robot.release()
            except NotReleasable:
                continue
            self._sent = None
            return True
        return False

    def _rest(self) -> None:
        """Record the fault, and continue through the gate until the arm is at rest, for at most 5 s."""
        self.faults.append(str(self.robot.fault))
        self.say(f"stopped: {self.robot.fault}")
        for _ in self.ticks.run(round(5 * self.ticks.hz)):
            reading = self.read()
            self.send(reading.joints, reading)
            if (command := self.robot.command) is not None and command.resting:
                return
