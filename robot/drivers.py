"""What chooses the arm's goals: a script, a teleoperator, a plan. A policy's is in `configs.arm.recording`."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lerobot.teleoperators import Teleoperator

from policies.ladder import ASK
from policies.planner_link.client import PlannerClient
from policies.planner_link.messages import Answer
from policies.tools import Asker
from robot.cameras import CameraBuffer
from robot.loop import Driver, Reading
from robot.rungs import Rungs
from robot.safety.stops import FaultKind
from robot.so101 import SO101Sim
from robot.ticks import percentiles
from sim.so101.experts import EXPERTS, Expert, Unreachable
from sim.so101.joints import Targets, Units
from worldmodel.errors import UserError, in_one_line

HOLD_S = 0.3  # how long an episode continues after the expert is done, so that the arm can arrive
TAIL_S = 0.2  # how long the arm takes to come to rest past a curve's end


class DriverLost(RuntimeError):
    """The driver is gone, e.g. a leader arm whose cable was pulled; the message is one line."""


class ScriptDriver(Driver):
    """The scripted expert of the simulated arm's task."""

    def __init__(self, robot: SO101Sim):
        self._robot = robot
        self._expert: Expert  # for the episode, from `begin` on
        self._left = 0  # control steps left to hold still

    def begin(self, seed: int = 0) -> None:
        """Start an episode of the expert. Raises Unreachable."""
        self._expert = EXPERTS[self._robot.config.task](self._robot.scene, np.random.default_rng(seed))
        self._left = round(HOLD_S * self._robot.config.control_hz)

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return the expert's next targets; None once it is done and has held, or the object has got out of reach."""
        if self._expert.done():
            self._left -= 1
        try:
            return None if self._left < 0 else self._expert.target()
        except Unreachable:
            return None


class TeleopDriver(Driver):
    """Any LeRobot teleoperator whose actions have the robot's own keys."""

    def __init__(self, teleop: Teleoperator, keys: Sequence[str], units: Units):
        """Connect without prompting. Raises ValueError without a key or calibration, ConnectionError."""
        if missing := [key for key in keys if key not in teleop.action_features]:
            moves = ", ".join(teleop.action_features)
            raise UserError(f"teleop.type={teleop.name}: moves {moves}, not {', '.join(missing)}")
        self._teleop, self._keys, self._units = teleop, keys, units
        try:
            teleop.connect(calibrate=False)
        except RuntimeError as error:  # LeRobot's error for missing servos
            raise ConnectionError(f"teleop.type={teleop.name}: {error}") from error
        if not teleop.is_calibrated:
            teleop.disconnect()
            raise UserError(f"teleop.type={teleop.name}: not calibrated; lerobot-calibrate --teleop.type=...")

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the teleoperator's current position. Raises DriverLost if it cannot be read."""
        try:
            action = self._teleop.get_action()
        except Exception as error:
            raise DriverLost(f"the teleoperator cannot be read: {in_one_line(error)}") from error
        return self._units.to_rad(np.array([float(action[key]) for key in self._keys]))

    def close(self) -> None:
        """Disconnect the teleoperator."""
        if self._teleop.is_connected:
            self._teleop.disconnect()


class WrittenDriver(Driver):
    """A written plan: (seconds, item) in order, an item being an action (A,) for each control step, or an event.

    `target` converts an action to joint targets (6,) in rad; `report` gets each event when it comes. `farthest` and
    `left`: the largest deviation of a joint from the plan so far, and that of the last command sent; in degrees, over
    the joints except the gripper.
    """

    def __init__(
        self, items: Sequence, target: Callable[[np.ndarray], np.ndarray], report: Callable[[float, Any], None]
    ):
        self._targets = [(at, target(item)) for at, item in items if isinstance(item, np.ndarray)]
        self._events = [(at, item) for at, item in items if not isinstance(item, np.ndarray)]
        self._report, self._at, self.farthest, self.left = report, -1, 0.0, 0.0

    @property
    def steps(self) -> int:
        """The plan's control steps."""
        return len(self._targets)

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the target that is due now, the last one also if its moment was missed."""
        self._at = min(self._at + reading.steps, self.steps - 1)
        at, goal = self._targets[self._at]
        self.report_until(at)
        self.farthest = max(self.farthest, _degrees(reading.joints - goal))
        return goal

    def sent(self, target: np.ndarray) -> None:
        """Note how far the command was from the plan."""
        self.left = _degrees(target - self._targets[self._at][1])

    def report_until(self, seconds: float) -> None:
        """Report the events that have come by then."""
        while self._events and self._events[0][0] <= seconds:
            self._report(*self._events.pop(0))


def _degrees(off: np.ndarray) -> float:
    return float(np.degrees(np.abs(off[:-1]).max()))


@dataclass
class Plans:
    """Planning statistics: `late` of `count` curves missed their start; times in ms, in the planner and round trip."""

    count: int = 0
    late: int = 0
    plan_ms: list[float] = field(default_factory=list)
    round_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | int | None]:
        """Return missed_deadlines, plans, and the median and 99th percentile of both times; None without any."""
        (plan_p50, plan_p99), (round_p50, round_p99) = (percentiles(x, 50, 99) for x in (self.plan_ms, self.round_ms))
        times = {"plan_ms_p50": plan_p50, "plan_ms_p99": plan_p99, "round_ms_p50": round_p50, "round_ms_p99": round_p99}
        return {"missed_deadlines": self.late, "plans": self.count, **times}


class TokenTrack:
    """Joint targets (6,) in rad, one per control step, from curves of actions (L, 6) in [-1, 1].

    If a curve ends before the next begins, the target keeps its rate, at most `Targets.step` a control step, which
    falls linearly to 0 over TAIL_S; then it stays.
    """

    def __init__(self, targets: Targets, control_hz: float):
        self._targets = targets
        self._tail = max(1, round(TAIL_S * control_hz))
        self._actions: np.ndarray = np.zeros((0, 6))
        self._at = self._past = 0
        self._moved: np.ndarray = np.zeros(6)

    @property
    def left(self) -> int:
        """Steps of the current curve still to come; 0 in the tail or at rest."""
        return len(self._actions) - self._at

    @property
    def over(self) -> bool:
        """Whether there is no curve to continue: the target is past the end of the last one."""
        return not self.left and (self._past > 0 or not len(self._actions))

    @property
    def still(self) -> bool:
        """Whether the target stays where it is."""
        return not self.left and (self._past >= self._tail or not self._moved.any())

    def begin(self, actions: np.ndarray) -> None:
        """Follow this curve from the next step on."""
        self._actions, self._at, self._past = np.asarray(actions, float), 0, 0

    def next(self, last: np.ndarray) -> np.ndarray:
        """Return the next target (6,) in rad, given the last target that was actually sent."""
        if self.left:
            target = self._targets.next(last, self._actions[self._at])
            self._at += 1
            self._moved = np.clip(target - last, -self._targets.step, self._targets.step)
            return target
        self._past += 1
        share = max(0.0, 1 - self._past / (self._tail + 1))
        return np.clip(last + share * self._moved, self._targets.low, self._targets.high)

    def ahead(self, last: np.ndarray) -> np.ndarray:
        """Return the targets (left, 6) in rad of the rest of the curve, if nothing stops it."""
        rest = []
        for action in self._actions[self._at :]:
            last = self._targets.next(last, action)
            rest.append(last)
        return np.array(rest).reshape(-1, 6)


class PlanFollower(Driver):
    """Follows curves from a planner that is asked `lead` control steps before each is due, one question at a time.

    A late curve begins when it arrives. One that is later than its own length is discarded and requested anew, unless
    it was requested at rest: then the arm is still where the curve begins. `estimator` (`envs.state_estimator`) gives
    the task's state from the arm's joints, `bodies` where the objects of a simulated scene are, `cameras` what the
    robot's cameras show. `answer` is the plan being followed; `waiting`: whether it ended before the next one came.
    `say` gets a line for each rung of the planner's ladder (`policies.ladder`); `rungs` are all of them, and `alarm` is
    the one since which there was no plan. `gauges`: of each episode and plan, what alarms are made of. `asker`: who
    puts the planner's questions to a person; the arm rests meanwhile.
    """

    def __init__(
        self,
        estimator: Any,
        planner: PlannerClient,
        hz: float,
        lead: int,
        cameras: CameraBuffer | None = None,
        bodies: Callable[[], object] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
        asker: Asker | None = None,
        backs_off: bool = False,
    ):
        self.estimator, self.planner, self._hz, self._lead = estimator, planner, hz, lead
        self.cameras, self._bodies, self.plans = cameras or CameraBuffer(), bodies, Plans()
        self._say, self._asker, self._backs_off = say, asker, backs_off
        self.rungs, self._episode = list[dict](), -2
        self.gauges: list[list[np.ndarray]] = []
        self.begin()

    def begin(self, seed: int = 0) -> None:
        """Start an episode: the first plan is yet to be requested, from rest."""
        self._track = TokenTrack(self.estimator.targets, self._hz)
        self._episode, self._frame = self._episode + 1, 0  # of the next control step
        self._late = -1  # control steps since the next curve was due; -1: not due
        self._asked: float | None = None  # when the pending question of this episode was
        self._from_rest = self._fresh = True
        self._next: Answer | None = None
        self.waiting, self.alarm, self.waited, self._rung = False, "", 0, Rungs(self._hz)
        self.gauges.append([])
        self.answer: Answer | None = None
        self.cameras.forget()

    @property
    def started(self) -> bool:  # type: ignore[override]
        """Whether there is a curve to follow."""
        return self.answer is not None

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the target (6,) in rad to send now; `last` (6,) was sent `reading.steps` control steps before."""
        self.follow(reading, last)
        self._late += reading.steps
        self._frame += reading.steps
        self._receive()
        if self._backs_off and not self._rung.back and (held := self._rung.held(reading, last)):
            self._climb(*held)
        if self._rung.back:
            return self._rung.back.pop()
        if not self._track.left:
            if self._next is not None:
                self.answer, self._next, self.waiting, self.alarm = self._next, None, False, ""
                self._track.begin(self.answer.actions)
            elif self.started and not self.waiting:
                self.plans.late += 1
                self.waiting = True
        if self._track.left:
            self._late = -1
        return self._track.next(last)

    def follow(self, reading: Reading, last: np.ndarray) -> None:
        """Take in where the arm is; arguments as for `goal`."""
        if np.isfinite(reading.joints).all():  # otherwise the gate stops the arm
            self.estimator.follow(reading.joints, last, self._bodies(), reading.steps)

    def watch(self, reading: Reading) -> tuple[FaultKind, str] | None:
        """Take in the cameras' frames; a fault if the planner is gone, or nothing was visible for too long."""
        self.cameras.see(reading.observation, reading.steps)
        if why := self.planner.gone():
            return FaultKind.PLANNER, why
        if self._rung.stuck:
            return FaultKind.STUCK, self._rung.stuck
        if self.cameras.blind:
            through = ", ".join(self.cameras.names)
            return FaultKind.BLIND, f"nothing to be seen through {through}, and the checkpoint has no other sense"
        return None

    def sent(self, target: np.ndarray) -> None:
        """Request the next curve if it is time to, now that the target (6,) has been sent."""
        self._rung.sent(target)
        if not self.planner.waiting:
            self._asked = None  # the planner was lost
        reply = self._asker.poll() if self._rung.asking and self._asker else ""
        if reply is None:
            self.waited += 1
            return
        busy = self._rung.back or self._rung.stuck or self._asked is not None or self._next is not None
        if busy or self._track.left > self._lead:
            return
        state = self.estimator.state(np.vstack([target, self._track.ahead(target)]))  # where the next curve begins
        stopped = self._track.over
        place = self._episode, self._frame + self._track.left
        if self.planner.ask(state, self._fresh or stopped, *self.cameras.now(), *place, reply):
            self._asked, self._late, self._rung.asking = time.perf_counter(), -1, False
            self._from_rest = self._track.still

    def _receive(self) -> None:
        answer = self.planner.poll()
        if answer is None or self._asked is None:  # none, or one of an earlier episode
            return
        self.plans.count += 1
        self.plans.plan_ms.append(answer.plan_ms)
        self.plans.round_ms.append(1000 * (time.perf_counter() - self._asked))
        self._asked, self._fresh = None, False
        self.gauges[-1].append(answer.gauges)
        if self._rung.back or self._rung.stuck:  # it was asked for before that
            return
        if answer.why:
            self._climb(answer.rung, answer.why)
        if answer.rung == ASK and self._asker:
            self._asker.begin(answer.why, json.loads(answer.choices))
        if not answer.rung and (self._from_rest or self._late <= len(answer.actions)):
            self._next = answer

    def _climb(self, rung: str, why: str) -> None:
        """Note and report a rung, and begin it where the arm does (`robot.rungs`)."""
        self.alarm = why
        self.rungs.append({"episode": self._episode, "frame": self._frame, "why": why})
        self._say(f"episode {self._episode + 1}: {why}")
        if rung:
            self._track, self.waiting, self._next = TokenTrack(self.estimator.targets, self._hz), True, None
            self._rung.take(rung, why)
