"""Laws of the safety gate on an ordinary day: what it lets through, how it stops, how it is released."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.safety.braking import braked, stoppable, stopping, time_to_rest
from robot.safety.gate import Gate
from robot.safety.input_check import Stamped
from robot.safety.limits import Box, JointLimits, Limits, so101
from robot.safety.stops import Fault, FaultKind, NotReleasable
from sim.so101.kinematics import Fingertip

DT = 1 / 30
ONE = Limits({"j": JointLimits(-90, 90, 60, 240, 15)})


class Run:
    """A gate and an arm that reaches `lag` of the way to each command before the next."""

    def __init__(self, limits=ONE, arm=None, start=0.0, lag=1.0):
        self.gate, self.lag, self.now = Gate(limits, arm), lag, 0.0
        self.place = np.broadcast_to(np.asarray(start, dtype=float), len(limits.names)).copy()
        self.step(self.place)  # the first reading; the next one confirms it

    def step(self, goal, reading=None, dt=DT):
        self.now += dt
        seen = self.place if reading is None else reading
        command = self.gate.step(
            Stamped(np.broadcast_to(goal, self.place.shape), self.now), Stamped(seen, self.now), self.now
        )
        if command.values is not None:
            self.place = self.place + self.lag * (command.values - self.place)
        return command


def test_a_curve_within_the_limits_passes_unchanged():
    run, sent, asked = Run(), [], []
    for k in range(300):
        asked.append(30 * (1 - np.cos(k * DT)))  # at most 30 units/s and 30 units/s^2
        sent.append(run.step(asked[-1]).values[0])
    np.testing.assert_allclose(sent, asked, atol=1e-3)
    np.testing.assert_allclose(sent[3:], asked[3:], atol=1e-9)  # the first goals tell no rate


def test_a_goal_that_jumps_is_reached_without_overshoot_at_full_rate():
    run = Run()
    commands = [run.step(50.0) for _ in range(60)]
    path = np.array([c.values[0] for c in commands])
    assert (np.diff(path) >= 0).all()
    assert path.max() <= 50
    assert abs(path[-1] - 50) < 1e-3
    assert max(c.rate[0] for c in commands) == 60


def test_margins_are_the_shares_of_the_limits_that_are_left():
    limits = dataclasses.replace(ONE, joints={"j": dataclasses.replace(ONE.joints["j"], low=-80.0)})
    run, before = Run(limits, start=20.0), 0.0
    for k in range(40):
        dt, here = DT * (0.5 + k % 2), run.place[0]
        command = run.step(60.0 if k < 25 else -60.0, dt=dt)
        at, rate = command.values[0], command.rate[0]
        left = {
            "position": min(at + 80, 90 - at) / 85,
            "rate": 1 - abs(rate) / 60,
            "acceleration": 1 - abs(rate - before) / dt / 240,
            "step": 1 - abs(at - here) / 15,
        }
        before = rate
        assert command.margins.least() == {kind: ("j", pytest.approx(share)) for kind, share in left.items()}
    repeated = run.step(-60.0, dt=1e-5).margins.least()
    assert repeated["acceleration"] == ("j", 1.0)  # no time has passed


STALLS = dataclasses.replace(ONE, joints={"j": dataclasses.replace(ONE.joints["j"], stall=8.0)}, stall_s=1.0)


@pytest.mark.parametrize("start", [0.0, -13.5])  # the command goes up to 13.5 from it
def test_a_joint_that_stays_where_it_is_while_its_command_is_far_off_is_a_fault(start):
    run = Run(STALLS, start=start, lag=0.0)
    for _ in range(2):  # released while it is still held, it is given as long again
        steps = 0
        while (command := run.step(50.0)).fault is None:
            steps += 1
            off = command.values is not None and command.values[0] > start + 8
            assert steps < 60
        assert off
        assert 1.0 <= steps * DT <= 1.0 + 0.5  # and as long as it takes the command to get there
        assert command.fault.kind == FaultKind.STALLED
        assert command.fault.message.startswith(f"j does not follow: it stays at {start:.1f}, its command is at ")
        pulled, path = command.values[0], []
        while not (command := run.step(50.0)).resting:
            path.append(command.values[0])
        assert (np.diff([pulled, *path]) <= 0).all()  # it lets go of the joint,
        assert 0 <= path[-1] - start < 0.03 * 15  # and never pushes it the other way
        run.gate.release()
    run.lag = 1.0
    assert all(run.step(50.0).fault is None for _ in range(90))


@pytest.mark.parametrize(
    ("lag", "goal", "stalls"),
    [
        (0.0, lambda k: 40 * np.sin(0.15 * k), True),  # to and fro past a held joint
        (0.0, lambda k: 7.9, False),  # it sags
        (0.02, lambda k: 60 * np.sign(np.sin(k / 100)), False),  # it follows, however far behind
        (1.0, lambda k: 60 * np.sign(np.sin(k / 100)), False),
    ],
)
def test_only_a_joint_that_does_not_move_is_stalled(lag, goal, stalls):
    run = Run(STALLS, lag=lag)
    faults = [command.fault for command in (run.step(goal(k)) for k in range(300)) if command.fault]
    assert [fault.kind for fault in faults[:1]] == [FaultKind.STALLED] * stalls


def test_an_arm_pushed_slowly_takes_its_command_along_and_one_torn_away_stops_the_gate():
    run = Run(lag=0.0)
    for _ in range(60):
        run.step(50.0)
    for place in np.linspace(0, -20, 60):
        command = run.step(50.0, reading=np.array([place]))
    assert command.fault is None
    assert command.values[0] <= -20 + 15
    command = run.step(50.0, reading=np.array([-60.0]))
    assert command.fault.kind == FaultKind.PUSHED
    assert "j was moved to -60.0" in command.fault.message
    for _ in range(90):
        command = run.step(50.0, reading=np.array([-60.0]))
    assert command.resting
    assert -60 <= command.values[0] <= -60 + 15  # else it would pull with all its strength for as long as it is held
    run.place = np.array([80.0])
    for _ in range(2):
        run.step(50.0)
    assert not run.step(50.0).resting  # as often as it is torn away


def test_one_wrong_reading_moves_nothing_and_of_a_stalled_arm_that_is_torn_away_the_command_follows():
    run = Run(STALLS, lag=0.0)
    run.step(0.0)
    assert run.step(0.0, reading=np.array([70.0])).fault.kind == FaultKind.PUSHED
    assert all(run.step(0.0).values[0] == 0 for _ in range(5))
    run.gate.release()
    while (command := run.step(50.0)).fault is None:
        pass
    assert command.fault.kind == FaultKind.STALLED
    for _ in range(90):
        command = run.step(50.0, reading=np.array([-40.0]))
    assert command.resting
    assert -40 <= command.values[0] <= -40 + 0.03 * 15


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_after_a_fault_it_brakes_to_rest_holds_and_goes_on_only_when_released(bad):
    run = Run()
    for _ in range(20):
        before = run.step(50.0)
    command = run.step(bad)
    assert command.fault.kind == FaultKind.NOT_FINITE
    path = [before.values[0], command.values[0], run.step(50.0).values[0]]
    with pytest.raises(NotReleasable, match="still braking after not-finite: "):
        run.gate.release()
    assert path[1] > path[0]  # no dead stop: that would be more than the acceleration
    while not command.resting:
        command = run.step(bad)
        path.append(command.values[0])
    assert len(path) <= 3 + np.ceil(60 / 240 / DT)
    with pytest.raises(NotReleasable, match=r"not released: not-finite: the goal of j is"):
        run.gate.release()
    held = run.step(0.0)
    assert held.values[0] == path[-1]
    assert held.fault is not None
    assert held.fault == command.fault
    run.gate.release()
    run.place = run.place - 1.5  # it sagged
    assert run.step(0.0).values[0] == run.place[0]
    for _ in range(100):
        command = run.step(0.0)
    assert command.fault is None
    assert abs(command.values[0]) < 1e-3


@pytest.mark.parametrize("sign", [-1, 1])
def test_it_begins_where_two_readings_agree_within_a_step_no_further_than_a_step_outside(sign):
    for gap, begins in ((15.0, True), (15.01, False)):
        command = Run().step(0.0, reading=np.array([sign * gap]))
        assert command.fault is None and (command.values is not None) == begins
        command = Run(start=sign * (90 + gap)).step(0.0)
        assert (command.fault is None) == (command.values is not None) == begins
        assert begins or command.fault.kind == FaultKind.OUTSIDE


BOX = Box(0.1, 0.35, -0.15, 0.2, 0.05, 0.3)


def excess(tip, joints):
    """How far the tip is outside the box, in metres."""
    place, _ = tip.place(joints)
    return max((BOX.low - place).max(), (place - BOX.high).max(), 0.0)


@pytest.mark.parametrize(("seed", "inside"), [*((seed, True) for seed in range(6)), (6, False), (7, False)])
def test_the_tip_never_leaves_its_box_even_while_braking_nor_goes_further_out(seed, inside):
    rng = np.random.default_rng(seed)
    tip, limits = Fingertip(), dataclasses.replace(so101("normal"), box=BOX)
    start = None
    while start is None or (excess(tip, start) == 0) != inside:
        start = rng.uniform(limits.column("low"), limits.column("high"))
    run, worst, goal, rate = Run(limits, tip, start, lag=0.7), excess(tip, start), start, np.zeros(6)
    for k in range(250):
        if k % 20 == 0:
            goal = rng.uniform(limits.column("low"), limits.column("high"))
        dt = DT * rng.uniform(0.3, 2)
        command = run.step(goal if k != 200 else np.full(6, np.nan), dt=dt)
        assert excess(tip, command.values) <= worst + 1e-9
        assert (np.abs(command.rate) <= limits.column("rate") + 1e-9).all()  # the box is no excuse for
        assert (np.abs(command.rate - rate) <= limits.column("acceleration") * dt + 1e-6).all()
        rate = command.rate


def test_a_goal_below_the_floor_slides_along_it():
    run = Run(dataclasses.replace(so101("normal"), box=Box(z_low=0.1)), Fingertip(), np.array([0, 0, 0, 0, 0, 50.0]))
    for _ in range(300):
        command = run.step(np.array([60, 30, 30, 30, 30, 50.0]))
    assert command.fault is None
    assert abs(command.values[0] - 60) < 0.1
    assert 0 <= command.margins.box_m < 0.005


@pytest.mark.parametrize("forgets", [False, True])
def test_after_a_release_it_sends_nothing_of_before(forgets):
    """The arm may have sunk in a pause, or a simulation's reset have put it elsewhere."""
    run = Run()
    for _ in range(30):
        run.step(30.0)
    run.gate.trip(Fault(FaultKind.STOP, "paused", run.now))
    while not run.step(30.0).resting:
        pass
    run.gate.release()
    if forgets:
        run.gate.forget()
    assert run.step(50.0, reading=np.array([-40.0]), dt=20.0).values is None
    assert run.step(50.0, reading=np.array([-40.0])).values == -40.0
    assert run.gate.fault is None


rates = st.floats(-1e3, 1e3)
accelerations = st.floats(0.1, 1e4)
steps = st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=200)


def brake(rate: float, acceleration: float, lengths: list[float]):
    """How far, rate by rate."""
    moved = 0.0
    for dt in lengths:
        after = float(braked(rate, acceleration, dt))
        assert abs(after - rate) <= acceleration * dt * (1 + 1e-9) + 1e-9 * abs(rate)
        assert abs(after) <= abs(rate)
        assert after * rate >= 0
        rate, moved = after, moved + after * dt
    return moved, rate


@given(rates, accelerations, st.floats(1e-3, 0.5))
def test_braking_ends_at_rest_in_the_time_it_takes(rate, acceleration, dt):
    needed = int(np.ceil(time_to_rest(np.array([rate]), np.array([acceleration])) / dt)) + 1
    for _ in range(min(needed, 20_000)):
        rate = float(braked(rate, acceleration, dt))
    assert rate == 0 or needed > 20_000


@given(st.floats(0, 1e3), accelerations, st.floats(1e-4, 0.5), steps)
def test_the_stoppable_rate_can_be_stopped_before_the_edge_and_no_faster_one(room, acceleration, dt, lengths):
    rate = float(stoppable(room, acceleration, dt))
    moved, _ = brake(rate, acceleration, lengths)
    assert rate * dt + moved <= room * (1 + 1e-9) + 1e-9
    assert room < 0.1 or 1.001 * rate * dt + float(stopping(1.001 * rate, acceleration)) > room
