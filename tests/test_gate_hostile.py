"""The safety gate under hostile input, audited from outside: from nothing but what went in and what came out."""

import math

import numpy as np
import pytest

from robot.safety.gate import Gate
from robot.safety.input_check import SOONEST_S, Stamped
from robot.safety.limits import JointLimits, Limits
from robot.safety.stops import FaultKind, NotReleasable

EPS = 1e-6
GOALS, EPISODE = 20_000, 200


class Audit:
    """Checks every command against the laws. Knows the limits, what went in and what came out; not how."""

    def __init__(self, limits: Limits):
        self.low, self.high = limits.column("low"), limits.column("high")
        self.rate, self.acceleration, self.step = (limits.column(k) for k in ("rate", "acceleration", "step"))
        self.rounding, self.agreed = 0.0, False

    def begins(self, reading, last):
        """Whether the arm begins there: two readings agree, and it is no further out than one step.

        `agreed` is whether they do; a reading that comes twice does not confirm itself.
        """
        if reading is None:
            return False
        new = last is None or reading.at > last.at
        near = last is not None and (np.abs(reading.values - last.values) <= self.step).all()
        self.agreed = bool(near and (new or self.agreed))
        inside = (reading.values >= self.low - self.step) & (reading.values <= self.high + self.step)
        return bool(new and self.agreed and inside.all())

    def began(self, command, reading, now):
        """The first command, and the first after a release: where the arm is, at rest."""
        np.testing.assert_array_equal(command.values, reading)
        assert command.resting
        self.at, self.now, self.reading, self.pace = command.values, now, reading, np.zeros_like(self.low)
        self.floor, self.ceiling = np.minimum(self.low, self.at), np.maximum(self.high, self.at)

    def check(self, command, reading, now):
        """One more command; `reading` and `now` are None if they were not to be gone by."""
        at, dt = command.values, 0.0 if now is None else now - self.now
        self.reading = self.reading if reading is None else reading
        assert np.isfinite(at).all()
        if dt < SOONEST_S:  # no time has passed: nothing may move
            np.testing.assert_array_equal(at, self.at)
            return
        pace = (at - self.at) / dt
        rounding = EPS + 1e-12 * np.abs(at) / dt  # rates are read off positions here
        assert ((at >= self.floor) & (at <= self.ceiling)).all(), "position"
        assert (np.abs(pace) <= self.rate + rounding).all(), "rate"
        slack = rounding + self.rounding
        assert (np.abs(pace - self.pace) <= self.acceleration * dt + slack).all(), "acceleration"
        if command.fault is None:
            assert (np.abs(at - self.reading) <= self.step + EPS).all(), "step"
        else:
            far = np.abs(self.at - self.reading) > self.step
            far &= reading is not None and self.agreed
            slowed = np.maximum(np.abs(self.pace) - self.acceleration * dt, 0)
            assert (far | (np.abs(pace) <= slowed + slack)).all(), "braking"
            way = np.clip(self.reading, self.low, self.high) - self.at
            before, after = self.pace * np.sign(way), pace * np.sign(way)
            nears = (after > 0) | (after >= before + self.acceleration * dt - slack)
            assert (~far | (np.abs(way) < EPS) | nears).all(), "step"
        room = np.where(pace > 0, self.ceiling - at, at - self.floor)
        assert (pace**2 / (2 * self.acceleration) <= room + EPS * (1 + np.abs(pace))).all(), "cannot stop in time"
        self.floor = np.where(pace >= 0, np.minimum(self.low, at), self.floor)  # never further out again
        self.ceiling = np.where(pace <= 0, np.maximum(self.high, at), self.ceiling)
        self.at, self.now, self.pace, self.rounding = at, now, pace, rounding


def random_limits(rng) -> Limits:
    joints = {}
    for i in range(rng.integers(1, 7)):
        low, rate = rng.uniform(-200, 100), 10 ** rng.uniform(-1, 3)
        acceleration = rate * 10 ** rng.uniform(-0.9, 2)
        joints[f"j{i}"] = JointLimits(
            low, low + 10 ** rng.uniform(0, 2.5), rate, acceleration, 10 ** rng.uniform(-1, 2)
        )
    return Limits(joints, None, *10 ** rng.uniform(-1, 0, size=3))


class Adversary:
    """An arm that follows its commands, with everything that can go wrong on the way to the gate.

    A calm one errs only in its goals' size.
    """

    def __init__(self, rng, limits: Limits, calm: bool):
        self.rng, self.limits, self.calm = rng, limits, calm
        self.low, self.high, self.step = (limits.column(k) for k in ("low", "high", "step"))
        self.arm = rng.uniform(self.low, self.high)
        if not calm and rng.random() < 0.3:
            self.arm = self.high + rng.uniform(0, 3) * self.step
        self.latest, self.calls = rng.uniform(-1e3, 1e3), 0

    def next(self):
        """A goal and a reading, of which either may be None, and the time."""
        self.calls += 1
        rng, span = self.rng, self.limits.loop_s
        now = self.latest + span * rng.uniform(0.05, 0.9)
        seen = self.arm + rng.normal(size=len(self.low)) * min(0.001, 0.01 * self.step.min())
        if self.calm or self.calls == 1:
            return Stamped(rng.uniform(self.low, self.high) * 10 ** rng.uniform(-3, 6), now), Stamped(seen, now), now
        goal, read_at, goal_at = self.goal(), now, now
        match rng.integers(150):
            case 0:
                now = (math.nan, math.inf, self.latest - rng.exponential(), self.latest, self.latest + 1e-5, None)[
                    rng.integers(6)
                ]
            case 1:
                now = self.latest + span * 10 ** rng.uniform(0, 3)
                read_at = goal_at = now
            case 2:
                wild = (seen * np.nan, seen + 1e6, seen[1:], self.arm + rng.normal(size=len(seen)) * self.step)
                seen = wild[rng.integers(4)]
            case 3:
                goal_at = now + rng.normal()
            case 4:
                read_at = now + rng.normal()
            case 5:
                seen = None
            case 6:
                self.arm = rng.uniform(self.low, self.high)  # torn away, or sunk
        given = None if goal is None else Stamped(goal, goal_at)
        return given, None if seen is None else Stamped(seen, read_at), now

    def goal(self):
        """Wild numbers, jumps, and now and then what is no goal at all."""
        rng, low, high = self.rng, self.low, self.high
        goal = rng.uniform(low, high)
        by_name = dict(zip(self.limits.names, goal, strict=True))
        match rng.integers(5 if rng.random() > 0.03 else 13):
            case 0:
                goal = low if self.calls % 2 else high
            case 1:
                goal = goal + rng.normal(size=len(low)) * 10.0 ** rng.integers(0, 300)
            case 2:
                goal = low + (high - low) * (0.5 + 0.7 * np.sin(self.calls / 9))
            case 3:
                goal = 1e308 * np.sign(goal)
            case 5 | 6 | 7 as kind:
                goal[rng.integers(len(goal))] = (np.nan, np.inf, -np.inf)[kind - 5]
            case 8:
                goal = (goal[:-1], np.append(goal, 0.0), goal[None], goal.astype(complex))[rng.integers(4)]
            case 9:
                goal = {name: value for name, value in by_name.items() if name != "j0"}
            case 10:
                goal = by_name | {"elbow": 1.0}
            case 11:
                goal = None
            case 12:
                goal = by_name | {"j0": ("up", None, 10**400, True, [1.0])[rng.integers(5)]}
            case _:
                goal = by_name
        return goal

    def moved(self, command, now):
        """The arm follows; one that nothing can be sent to is moved by hand."""
        self.latest = now
        target = command.values
        if target is None:
            target = self.arm if command.fault is None else (self.low + self.high) / 2
        self.arm = self.arm + 0.5 * (target - self.arm)


def ordeal(rng, kinds: set) -> int:
    """One gate, its adversary and its auditor. Returns how often the gate was released."""
    limits = random_limits(rng)
    gate, audit = Gate(limits), Audit(limits)
    adversary = Adversary(rng, limits, calm=rng.random() < 0.2)
    begun, released, latest, last = False, 0, -math.inf, None
    for _ in range(EPISODE):
        goal, reading, now = adversary.next()
        command = gate.step(goal, reading, now)
        assert not adversary.calm or command.fault is None, command.fault
        counts = isinstance(now, float) and math.isfinite(now) and now >= latest
        usable = reading if command.margins.checked.reading is not None else None
        latest = now if counts and now - latest >= SOONEST_S else latest
        begins = audit.begins(usable, last)
        if not begun and begins:
            audit.began(command, usable.values, latest)
            begun = True
        elif not begun:
            assert command.values is None
        else:
            audit.check(command, None if usable is None else usable.values, now if counts else None)
        last = last if usable is None else usable
        adversary.moved(command, latest)
        if command.fault is not None:
            kinds.add(command.fault.kind)
            assert "\n" not in str(command.fault)
            if rng.random() < 0.2:
                try:
                    gate.release()
                    begun, released = False, released + 1
                except NotReleasable:
                    assert gate.fault is not None
    return released


ELSEWHERE = {FaultKind.DRIVER, FaultKind.PLANNER, FaultKind.BLIND, FaultKind.STOP, FaultKind.STUCK}
"""What others report to the gate. An arm that follows is never stalled (tests/test_gate.py)."""


def test_no_hostile_goal_makes_a_command_beyond_any_limit_and_every_fault_is_named():
    rng, kinds = np.random.default_rng(0), set()
    released = sum(ordeal(rng, kinds) for _ in range(GOALS // EPISODE))
    assert kinds == set(FaultKind) - ELSEWHERE - {FaultKind.STALLED}
    assert released > 100


def test_the_auditor_sees_a_command_that_is_not_allowed():
    limits = Limits({"j": JointLimits(-10, 10, 5, 20, 3)})
    gate, audit = Gate(limits), Audit(limits)
    at = np.zeros(1)
    gate.step(Stamped(at, -0.1), Stamped(at, -0.1), -0.1)
    audit.began(gate.step(Stamped(at, 0.0), Stamped(at, 0.0), 0.0), at, 0.0)
    command = gate.step(Stamped(at, 0.1), Stamped(at, 0.1), 0.1)
    command.values[:] = 0.3  # 3 units/s after 0.1 s: more than 20 units/s^2
    with pytest.raises(AssertionError, match="acceleration"):
        audit.check(command, at, 0.1)
