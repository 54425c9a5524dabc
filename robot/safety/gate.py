"""The safety gate: the only way from a goal to a command.

Every step gives a command that keeps all the limits, whatever the goal: position, rate, acceleration, distance from the
measured position, and the tip's box. No rate builds up that could not be stopped before a limit. What cannot be
trusted (not finite, stale, out of order, late, a joint missing) latches a Fault: the command brakes to rest and holds,
near where the arm is, until `release`. The gate has no clock, no robot and no randomness: the same calls give the same
commands.
"""

import math
from dataclasses import dataclass

import numpy as np

from robot.safety.braking import braked, stoppable, stopping
from robot.safety.faults import Fault, FaultKind, NotReleasable
from robot.safety.limits import Limits
from robot.safety.margins import Margins
from robot.safety.stall import Stall
from robot.safety.watch import Checked, Timed, Watch
from robot.safety.workspace import Arm, Workspace

RESERVE = 0.1
"""The part of the step limit kept back, so that noise in the reading alone cannot take a command over it."""
EASED = 0.02
"""The part of the step limit to which a stalled arm's command comes back to where the arm is."""
SLIDES, SHARES = (1, 1, 1), (0.75, 0.5, 0.25, 0.125)
"""How much of the way from full braking to the wanted rate is tried, until the tip stays in its box."""


@dataclass(frozen=True)
class Command:
    """What to send: positions (D,) in the robot's units, None while the gate knows no safe one (then send nothing).

    It knows one once two readings in a row agree on where the arm is.

    `rate` (D,) is the command's own, in units/s. `fault` is the latched one; `resting`: the command no longer moves.
    """

    values: np.ndarray | None
    rate: np.ndarray
    fault: Fault | None
    resting: bool
    margins: Margins


class Gate:
    """Limits one robot's commands, step by step. `arm`: where its tip is, needed if the limits have a box."""

    def __init__(self, limits: Limits, arm: Arm | None = None):
        if limits.box is not None and arm is None:
            raise ValueError("box: needs the arm's forward kinematics; give `arm`, or limits without a box")
        self.limits = limits
        self.fault: Fault | None = None
        self._low, self._high = limits.column("low"), limits.column("high")
        self._rate_limit, self._acceleration = limits.column("rate"), limits.column("acceleration")
        self._step = limits.column("step")
        self._workspace = Workspace(limits.box, arm) if limits.box is not None else None
        self._watch = Watch(limits)
        self._stall = Stall(limits)
        self._cause: Fault | None = None
        self.forget()

    def step(self, goal: Timed | None, reading: Timed | None, now: float) -> Command:
        """The command for the time `now`, in seconds of any clock that does not go back. Raises nothing."""
        checked = self._watch.check(goal, reading, now)
        self._cause, before, begun = checked.fault, self._rate, self._begun
        new = checked.reading is not None and self._take_in(checked.reading, reading.at)
        if new and self._agreed and not begun:
            self._begin(checked.reading, now)
        self._latch()
        if begun and checked.dt > 0:
            self._advance(checked, now)
        values = None if self._at is None else self._at.copy()
        margins = Margins(self.limits, self._at, self._rate, before, self._reading, checked, self._workspace)
        return Command(values, self._rate.copy(), self.fault, not self._rate.any(), margins)

    def trip(self, fault: Fault) -> None:
        """Latch a fault found elsewhere, as in the driver, unless one is latched; the next steps brake."""
        self._cause = fault
        self._latch()

    def release(self) -> None:
        """Let the arm move again: it begins where the next reading finds it, at rest. A pause before that is not late.

        Raises NotReleasable while the command still moves, or the last step still had something wrong.
        """
        if self.fault is None:
            return
        if self._rate.any():
            raise NotReleasable(f"not released: still braking after {self.fault}")
        if self._cause is not None:
            raise NotReleasable(f"not released: {self._cause}")
        self.fault = self._at = self._goal = None
        self._begun = False
        self._watch.restart()

    def forget(self) -> None:
        """Know no more where the arm is, as before the first reading: it was moved otherwise. A fault stays latched."""
        self._at = self._reading = self._goal = None
        self._rate = np.zeros(len(self.limits.names))
        self._begun, self._agreed, self._read_at = False, False, -math.inf
        self._watch.restart()

    def _take_in(self, reading: np.ndarray, at: float) -> bool:
        """Take in a reading (D,) from the time `at`, and whether the one before agrees; whether it is a new one."""
        new, last = self._read_at < at, self._reading
        near = last is not None and bool((np.abs(reading - last) <= self._step).all())
        self._agreed = near and (new or self._agreed)
        self._reading, self._read_at = reading, at
        return new

    def _latch(self) -> None:
        if self.fault is None:
            self.fault = self._cause

    def _begin(self, reading: np.ndarray, now: float) -> None:
        """Begin at the reading, at rest, if it is not too far out; the one before agrees with it.

        The limits widen to where it is, and narrow as it comes in.
        """
        out = np.maximum(self._low - reading, reading - self._high) - self._step
        if (out > 0).any():
            joint = int(np.argmax(out))
            name, place = self.limits.names[joint], reading[joint]
            limits = self.limits.joints[name]
            self._cause = self._cause or Fault(
                FaultKind.OUTSIDE,
                f"{name} is at {place:.1f}, its limits are {limits.low:g} to {limits.high:g}; "
                f"move it by hand to within {limits.step:g} of them",
                now,
            )
            return
        self._at, self._rate, self._begun = reading, np.zeros_like(self._rate), True
        self._eased_to = reading
        self._stall.begin(reading)
        self._floor, self._ceiling = np.minimum(self._low, self._at), np.maximum(self._high, self._at)
        if self._workspace is not None:
            self._workspace.begin(self._at)

    def _advance(self, checked: Checked, now: float) -> None:
        """Move the command: towards the goal, or while a fault is latched towards rest."""
        if self.fault is None and (stalled := self._stall.check(self._at, self._reading, checked.dt, now)):
            self._cause, self._eased_to = stalled, self._reading
            self._latch()
        if self.fault is None:
            rate = self._follow(checked.goal, checked.dt)
            if (np.abs(self._at + rate * checked.dt - self._reading) > self._step).any():
                self._cause = self._pushed(now)
                self._latch()
        if self.fault is not None:
            rate = self._stopping(checked)
        self._at = np.clip(self._at + rate * checked.dt, self._floor, self._ceiling)
        self._rate = rate
        rest = self._at + stopping(rate, self._acceleration)
        self._floor = np.clip(np.minimum(self._at, rest), self._floor, self._low)
        self._ceiling = np.clip(np.maximum(self._at, rest), self._high, self._ceiling)

    def _stopping(self, checked: Checked) -> np.ndarray:
        """The rate (D,) after a fault: towards rest, but of a joint that pulls by way of where it is.

        That is one further than a step from its command, as two readings say: one alone must not send the arm anywhere;
        and one of a stalled arm, until it pulls no more.
        """
        pulls = np.abs(self._at - self._reading) > self._step
        if checked.reading is None or not self._agreed:
            pulls = np.zeros_like(pulls)
        if self.fault.kind is not FaultKind.STALLED:
            return self._back(self._reading, pulls, checked.dt)
        self._eased_to = np.where(pulls, self._reading, self._eased_to)
        return self._back(self._eased_to, np.abs(self._at - self._eased_to) > EASED * self._step, checked.dt)

    def _back(self, place: np.ndarray, joints: np.ndarray, dt: float) -> np.ndarray:
        """The rate (D,) that takes those `joints` (D,) towards `place` (D,), and the others to rest."""
        gap = np.clip(place, self._low, self._high) - self._at
        brake, (slowest, fastest) = braked(self._rate, self._acceleration, dt), self._bounds(dt)
        slowest, fastest = np.where(joints, slowest, brake), np.where(joints, fastest, brake)
        return self._within(np.sign(gap) * stoppable(np.abs(gap), self._acceleration, dt), slowest, fastest, dt)

    def _follow(self, goal: np.ndarray, dt: float) -> np.ndarray:
        """The rate (D,) that goes to the goal as far as every limit lets it."""
        goal = np.clip(goal, self._low, self._high)
        last, self._goal = goal if self._goal is None else self._goal, goal
        # Move with the goal, and close the gap to it at a rate from which the gap is not overshot.
        drift = np.clip((goal - last) / dt, -self._rate_limit, self._rate_limit)
        gap = goal - drift * dt - self._at
        wanted = drift + np.sign(gap) * stoppable(np.abs(gap), self._acceleration, dt)
        return self._within(wanted, *self._bounds(dt), dt)

    def _bounds(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """The rates (D,) and (D,) between which every limit but the box is kept."""
        slowest = np.maximum(self._rate - self._acceleration * dt, -self._rate_limit)
        fastest = np.minimum(self._rate + self._acceleration * dt, self._rate_limit)
        slowest = np.maximum(slowest, -stoppable(self._at - self._floor, self._acceleration, dt))
        fastest = np.minimum(fastest, stoppable(self._ceiling - self._at, self._acceleration, dt))
        down, up = self._near_reading(dt)
        return np.clip(down, slowest, fastest), np.clip(up, slowest, fastest)

    def _within(self, wanted: np.ndarray, slowest: np.ndarray, fastest: np.ndarray, dt: float) -> np.ndarray:
        """The rate (D,) nearest to the wanted one that is between those, as far as the box lets it."""
        rate = np.clip(wanted, slowest, fastest)
        return rate if self._workspace is None else self._in_box(rate, slowest, fastest, dt)

    def _near_reading(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """The rates (D,) and (D,) between which the command can stop near the reading, or comes back near it."""
        near = self._step * (1 - RESERVE)
        below = np.minimum(self._at - (self._reading - near), 1e9)
        above = np.minimum(self._reading + near - self._at, 1e9)
        down = -stoppable(np.maximum(below, 0), self._acceleration, dt)
        up = stoppable(np.maximum(above, 0), self._acceleration, dt)
        back_up, back_down = np.minimum(-below / dt, up), np.maximum(above / dt, down)
        return np.where(below < 0, back_up, down), np.where(above < 0, back_down, up)

    def _in_box(self, rate: np.ndarray, slowest: np.ndarray, fastest: np.ndarray, dt: float) -> np.ndarray:
        """The rate (D,) near `rate` that leaves the tip able to stop in its box.

        It slides along the faces as far as it can, then goes as much of the way from full braking as leaves it inside;
        full braking itself always does.
        """
        brake = braked(self._rate, self._acceleration, dt)
        for share in (*SLIDES, *SHARES):
            part = brake + share * (rate - brake)
            swept = self._workspace.swept(self._at + part * dt, stopping(part, self._acceleration))
            if self._workspace.holds(swept):
                self._workspace.narrow(swept)
                return part
            if share == 1:
                slid = self._workspace.slid(swept, dt + np.abs(part) / self._acceleration)
                rate = np.clip(part + slid, slowest, fastest)
        return brake

    def _pushed(self, now: float) -> Fault:
        joint = int(np.argmax(np.abs(self._at - self._reading) - self._step))
        return Fault(
            FaultKind.PUSHED,
            f"{self.limits.names[joint]} was moved to {self._reading[joint]:.1f}, away from its command, "
            f"{self._at[joint]:.1f}; at most {self._step[joint]:g} apart",
            now,
        )
