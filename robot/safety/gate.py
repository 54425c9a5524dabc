"""The safety gate: every goal passes through it to become a command.

Every step yields a command within all limits, whatever the goal: position, rate, acceleration, distance from the
measured position, and the box of the gripper's tip. No rate builds up that could not be braked before a limit. Input
that cannot be trusted (not finite, stale, out of order, late, a joint missing) latches a Fault: the command brakes to
rest and holds, near the arm's position, until `release`. The gate uses no clock, no robot and no randomness: the same
calls give the same commands.
"""

import math
from dataclasses import dataclass

import numpy as np

from robot.safety.braking import Arm, Workspace, braked, stoppable, stopping
from robot.safety.input_check import CheckedInput, InputCheck, Stamped
from robot.safety.limits import Limits
from robot.safety.stops import Fault, FaultKind, NotReleasable

RESERVE = 0.1
"""Fraction of the step limit held back, so that measurement noise alone cannot push a command over the limit."""
EASED = 0.02  # the command of a stalled arm returns to the arm's position to within this fraction of the step limit
STILL = 0.25  # a joint has moved once it has travelled this fraction of the allowed command error (`JointLimits.stall`)
SLIDES, SHARES = (1, 1, 1), (0.75, 0.5, 0.25, 0.125)
"""Fractions of the way from full braking to the wanted rate, tried in turn until the tip stays in its box.

After each of the SLIDES the rate is first corrected to slide along the faces of the box.
"""


@dataclass(frozen=True)
class Margins:
    """Margins of the command `at` (D,), with rate `pace` (D,), `before` (D,) one step ago, and of the last reading.

    The limits are the configured ones: an arm that began outside has a negative margin until it has come in. A margin
    that cannot be known is NaN, as are `at` before the command begins and `reading` before the first one.
    """

    limits: Limits
    at: np.ndarray
    pace: np.ndarray
    before: np.ndarray
    reading: np.ndarray
    checked: CheckedInput
    workspace: Workspace | None

    @property
    def box_m(self) -> float:
        """Metres from the tip to the nearest face of its box; infinite without a box."""
        if self.workspace is None:
            return np.inf
        return self.workspace.margin(self.at) if np.isfinite(self.at).all() else np.nan

    def least(self) -> dict[str, tuple[str, float]]:
        """Return, per kind of limit, the joint with the least margin, and its share of the limit (or half range)."""
        low, high = self.limits.column("low"), self.limits.column("high")
        change = np.abs(self.pace - self.before) / self.checked.dt if self.checked.dt > 0 else np.zeros_like(self.pace)
        left = {"position": np.minimum(self.at - low, high - self.at) / ((high - low) / 2)}
        for kind, used in (("rate", self.pace), ("acceleration", change), ("step", self.at - self.reading)):
            left[kind] = 1 - np.abs(used) / self.limits.column(kind)
        joints = {kind: int(np.argmin(shares)) for kind, shares in left.items()}  # NaN counts as the least
        return {kind: (self.limits.names[joint], float(left[kind][joint])) for kind, joint in joints.items()}


@dataclass(frozen=True)
class Command:
    """The gate's output for one step.

    `values` (D,): positions to send, in the robot's units; None while the gate knows no safe ones (then send nothing).
    It knows them once two consecutive readings agree on where the arm is. `rate` (D,): the command's own rate, in
    units/s. `fault`: the latched fault. `resting`: whether the command has stopped moving.
    """

    values: np.ndarray | None
    rate: np.ndarray
    fault: Fault | None
    resting: bool
    margins: Margins


class Stall:
    """Accumulates, per joint, the time for which it has not moved while its command was too far away.

    While the command is near, the time counts down, so that a goal that oscillates is detected as well.
    """

    def __init__(self, limits: Limits):
        self._limits, self._off = limits, limits.column("stall")
        self._place: np.ndarray = np.zeros(len(limits.names))
        self._for: np.ndarray = self._place  # seconds

    def begin(self, reading: np.ndarray) -> None:
        """Start with the joints (D,) at `reading` and no history."""
        self._place, self._for = reading, np.zeros(len(reading))

    def check(self, command: np.ndarray, reading: np.ndarray, dt: float, now: float) -> Fault | None:
        """Take in a step of `dt` seconds with `command` (D,) and `reading` (D,); return the fault if a joint stalls."""
        moved = np.abs(reading - self._place) > STILL * self._off
        off = np.abs(command - reading) > self._off
        self._for = np.where(moved, 0.0, np.maximum(self._for + np.where(off, dt, -dt), 0.0))
        self._place = np.where(moved, reading, self._place)
        joint = int(np.argmax(self._for))
        if self._for[joint] < self._limits.stall_s:
            return None
        return Fault(
            FaultKind.STALLED,
            f"{self._limits.names[joint]} does not follow: it stays at {reading[joint]:.1f}, its command is at "
            f"{command[joint]:.1f}; is it held, or in the way of something?",
            now,
        )


class Gate:
    """Limits one robot's commands, step by step; `arm`: the tip's kinematics, which limits that have a box need."""

    def __init__(self, limits: Limits, arm: Arm | None = None):
        if limits.box is not None and arm is None:
            raise ValueError("box: needs the arm's forward kinematics; give `arm`, or limits without a box")
        self.limits = limits
        self.fault: Fault | None = None
        self._low, self._high = limits.column("low"), limits.column("high")
        self._rate_limit, self._acceleration = limits.column("rate"), limits.column("acceleration")
        self._step = limits.column("step")
        self._workspace = None if limits.box is None or arm is None else Workspace(limits.box, arm)
        self._input = InputCheck(limits)
        self._stall = Stall(limits)
        self._cause: Fault | None = None
        self.forget()

    def step(self, goal: Stamped | None, reading: Stamped | None, now: float) -> Command:
        """Return the command for `now`, in seconds of a monotonic clock. Never raises: what is wrong is a fault."""
        checked = self._input.check(goal, reading, now)
        self._cause, before, begun = checked.fault, self._rate, self._begun
        if reading is not None and checked.reading is not None:
            new = self._take_in(checked.reading, reading.at)
            if new and self._agreed and not begun:
                self._begin(checked.reading, now)
        self._latch()
        if begun and checked.dt > 0:
            self._advance(checked, now)
        values = self._at.copy() if self._begun else None
        margins = Margins(self.limits, self._at, self._rate, before, self._reading, checked, self._workspace)
        return Command(values, self._rate.copy(), self.fault, not self._rate.any(), margins)

    def forget(self) -> None:
        """Forget where the arm is, as before the first reading: it was moved by other means. A fault stays latched."""
        self._rate: np.ndarray = np.zeros(len(self.limits.names))
        self._at: np.ndarray = np.full_like(self._rate, np.nan)  # the command (D,); NaN until it begins
        self._reading: np.ndarray = self._at  # the last one (D,); NaN before it
        self._goal: np.ndarray | None = None
        self._begun, self._agreed, self._read_at = False, False, -math.inf
        self._input.restart()

    def trip(self, fault: Fault) -> None:
        """Latch a fault found elsewhere, e.g. in the driver; the next steps brake. An already latched fault is kept."""
        self._cause = fault
        self._latch()

    def release(self) -> None:
        """Clear the fault: the command starts again at rest, where the next reading finds the arm.

        The pause before that reading does not count as late. Raises NotReleasable while the command is still moving, or
        if something was wrong at the last step.
        """
        if self.fault is None:
            return
        if self._rate.any():
            raise NotReleasable(f"not released: still braking after {self.fault}")
        if self._cause is not None:
            raise NotReleasable(f"not released: {self._cause}")
        self.fault = self._goal = None
        self._at, self._begun = np.full_like(self._rate, np.nan), False
        self._input.restart()

    def _take_in(self, reading: np.ndarray, at: float) -> bool:
        """Store a reading (D,) from the time `at`, and whether it agrees with the last; return whether it is new."""
        new = self._read_at < at
        near = bool((np.abs(reading - self._reading) <= self._step).all())
        self._agreed = near and (new or self._agreed)
        self._reading, self._read_at = reading, at
        return new

    def _latch(self) -> None:
        if self.fault is None:
            self.fault = self._cause

    def _begin(self, reading: np.ndarray, now: float) -> None:
        """Start the command at rest at `reading` (D,), with which the previous reading agrees.

        The limits are widened to include it, and narrow again as the arm comes in. If a joint is more than its step
        limit outside its range, note an OUTSIDE fault instead.
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

    def _advance(self, checked: CheckedInput, now: float) -> None:
        """Move the command by one step: towards the goal, or towards rest while a fault is latched."""
        if self.fault is None and (stalled := self._stall.check(self._at, self._reading, checked.dt, now)):
            self._cause, self._eased_to = stalled, self._reading
            self._latch()
        if self.fault is None:
            assert checked.goal is not None, "a missing goal is a fault"
            rate = self._follow(checked.goal, checked.dt)
            if (np.abs(self._at + rate * checked.dt - self._reading) > self._step).any():
                self._cause = self._pushed(now)
                self._latch()
        if self.fault is not None:
            rate = self._stopping(self.fault, checked)
        self._at = np.clip(self._at + rate * checked.dt, self._floor, self._ceiling)
        self._rate = rate
        rest = self._at + stopping(rate, self._acceleration)
        self._floor = np.clip(np.minimum(self._at, rest), self._floor, self._low)
        self._ceiling = np.clip(np.maximum(self._at, rest), self._high, self._ceiling)

    def _stopping(self, fault: Fault, checked: CheckedInput) -> np.ndarray:
        """Return the rate (D,) after a fault: joints brake to rest, except those whose command returns to the arm.

        Those are the joints more than the step limit away from their command according to two agreeing readings (a
        single one must not move the arm); and after a STALLED fault every joint, until its motor no longer pulls.
        """
        pulls = np.abs(self._at - self._reading) > self._step
        if checked.reading is None or not self._agreed:
            pulls = np.zeros_like(pulls)
        if fault.kind is not FaultKind.STALLED:
            return self._back(self._reading, pulls, checked.dt)
        self._eased_to = np.where(pulls, self._reading, self._eased_to)
        return self._back(self._eased_to, np.abs(self._at - self._eased_to) > EASED * self._step, checked.dt)

    def _back(self, place: np.ndarray, joints: np.ndarray, dt: float) -> np.ndarray:
        """Return the rate (D,) that takes the joints of the mask `joints` (D,) towards `place` (D,) and brakes the
        rest.
        """
        gap = np.clip(place, self._low, self._high) - self._at
        brake, (slowest, fastest) = braked(self._rate, self._acceleration, dt), self._bounds(dt)
        slowest, fastest = np.where(joints, slowest, brake), np.where(joints, fastest, brake)
        return self._within(np.sign(gap) * stoppable(np.abs(gap), self._acceleration, dt), slowest, fastest, dt)

    def _follow(self, goal: np.ndarray, dt: float) -> np.ndarray:
        """Return the rate (D,) that approaches the goal as closely as all limits allow."""
        goal = np.clip(goal, self._low, self._high)
        last, self._goal = goal if self._goal is None else self._goal, goal
        # Move along with the goal, and close the remaining gap no faster than can be stopped without overshoot.
        drift = np.clip((goal - last) / dt, -self._rate_limit, self._rate_limit)
        gap = goal - drift * dt - self._at
        wanted = drift + np.sign(gap) * stoppable(np.abs(gap), self._acceleration, dt)
        return self._within(wanted, *self._bounds(dt), dt)

    def _bounds(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest rates (D,) that respect every limit except the box."""
        slowest = np.maximum(self._rate - self._acceleration * dt, -self._rate_limit)
        fastest = np.minimum(self._rate + self._acceleration * dt, self._rate_limit)
        slowest = np.maximum(slowest, -stoppable(self._at - self._floor, self._acceleration, dt))
        fastest = np.minimum(fastest, stoppable(self._ceiling - self._at, self._acceleration, dt))
        down, up = self._near_reading(dt)
        return np.clip(down, slowest, fastest), np.clip(up, slowest, fastest)

    def _within(self, wanted: np.ndarray, slowest: np.ndarray, fastest: np.ndarray, dt: float) -> np.ndarray:
        """Return the rate (D,) between the two bounds that is nearest to `wanted`, as far as the box allows."""
        rate = np.clip(wanted, slowest, fastest)
        return rate if self._workspace is None else self._in_box(self._workspace, rate, (slowest, fastest), dt)

    def _near_reading(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest rates (D,) that end within a step of the reading, or else bring it back."""
        near = self._step * (1 - RESERVE)
        below = np.minimum(self._at - (self._reading - near), 1e9)
        above = np.minimum(self._reading + near - self._at, 1e9)
        down = -stoppable(np.maximum(below, 0), self._acceleration, dt)
        up = stoppable(np.maximum(above, 0), self._acceleration, dt)
        back_up, back_down = np.minimum(-below / dt, up), np.maximum(above / dt, down)
        return np.where(below < 0, back_up, down), np.where(above < 0, back_down, up)

    def _in_box(self, box: Workspace, rate: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], dt: float) -> np.ndarray:
        """Return a rate (D,) near `rate` and within the two bounds, from which the tip can still stop inside its box.

        It first slides along the faces of the box as far as it can, then is reduced towards full braking until the tip
        stays inside; full braking itself always keeps it there.
        """
        brake = braked(self._rate, self._acceleration, dt)
        for share in (*SLIDES, *SHARES):
            part = brake + share * (rate - brake)
            swept = box.swept(self._at + part * dt, stopping(part, self._acceleration))
            if box.holds(swept):
                box.narrow(swept)
                return part
            if share == 1:
                slid = box.slid(swept, dt + np.abs(part) / self._acceleration)
                rate = np.clip(part + slid, *bounds)
        return brake

    def _pushed(self, now: float) -> Fault:
        joint = int(np.argmax(np.abs(self._at - self._reading) - self._step))
        return Fault(
            FaultKind.PUSHED,
            f"{self.limits.names[joint]} was moved to {self._reading[joint]:.1f}, away from its command, "
            f"{self._at[joint]:.1f}; at most {self._step[joint]:g} apart",
            now,
        )
