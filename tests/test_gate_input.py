"""What reaches the gate: input that cannot be trusted is named and not used; a preset's limits are as documented."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from robot.safety.input_check import LONGEST_S, SOONEST_S, InputCheck, Stamped
from robot.safety.limits import PRESETS, RANGES, Box, JointLimits, Limits, so101
from sim.so101.joints import GRIPPER, JOINTS

JOINT = JointLimits(-9, 9, 1, 1, 1)
NOW = 10.0


def made(at, values=(1.0, 2.0)):
    return Stamped(values, at)


INPUTS = [  # what is wrong with a step; its goal, reading, time (the step before: at 9.9, from 9.8)
    ("", made(9.95, {"j": 1, "k": 2.0}), made(NOW, np.array([1, 2], np.int8)), NOW),
    ("", made(NOW - 0.5), made(NOW - 0.25), NOW),  # as old as they may be
    ("", made(10.15), made(10.15), 10.15),  # as late as a loop may be
    ("late-loop: 0.260 s since the last step", made(10.16), made(10.16), 10.16),
    ("stale: the goal is 0.510 s old", made(NOW - 0.51), made(NOW), NOW),
    ("out-of-order: the goal is from 0.001 s in the future", made(10.001), made(NOW), NOW),
    ("clock: the goal's time is nan", made(math.nan), made(NOW), NOW),
    ("clock: the step's time, 9.890000 s, is before", made(9.85), made(9.85), 9.89),
    ("missing: no goal", None, made(NOW), NOW),
    ("missing: the goal lacks the joint 'k'", made(NOW, {"j": 1}), made(NOW), NOW),
    ("shape: the goal has 'x'", made(NOW, {"j": 1, "k": 2, "x": 3}), made(NOW), NOW),
    ("shape: the goal is float64 (3,)", made(NOW, [1.0, 2.0, 3.0]), made(NOW), NOW),
    ("shape: the goal is ", made(NOW, [10**400, 2]), made(NOW), NOW),
    ("not-finite: the goal of k is inf", made(NOW, [1.0, math.inf]), made(NOW), NOW),
    ("not-finite: the reading of j is nan", made(NOW), made(NOW, [math.nan, 2.0]), NOW),
]


@pytest.mark.parametrize(("wrong", "goal", "reading", "now"), INPUTS)
def test_what_cannot_be_trusted_is_named_and_not_used(wrong, goal, reading, now):
    check = InputCheck(Limits({"j": JOINT, "k": JOINT}, observation_age_s=0.25, goal_age_s=0.5, loop_s=0.25))
    check.check(made(9.8), made(9.8), 9.9)
    if "stale" in wrong or (goal and goal.at < 9.8):
        check.restart()  # so that it is not older than the last
    found = check.check(goal, reading, now)
    assert str(found.fault).startswith(wrong) and (found.fault is None) == (wrong == "")
    timed = "the step's time" not in wrong
    assert found.dt == (pytest.approx(now - 9.9) if timed else 0)
    if not wrong:
        np.testing.assert_array_equal([found.goal, found.reading], [[1.0, 2.0], [1.0, 2.0]])
    elif "late-loop" not in wrong:
        assert (found.goal is None) == ("goal" in wrong or not timed)
        assert (found.reading is None) == ("reading" in wrong or not timed)
    assert check.check(made(99.0), made(99.0), 99.0).fault.kind == "late-loop"
    check.restart()
    assert check.check(made(199.0), made(199.0), 199.0).fault is None


def test_steps_too_close_count_as_one_and_a_long_pause_as_the_longest():
    check, at = InputCheck(Limits({"j": JOINT})), lambda now: (Stamped([0.0], now), Stamped([0.0], now), now)
    assert check.check(*at(0.0)).dt == 0
    assert check.check(*at(SOONEST_S)).dt == SOONEST_S
    assert (again := check.check(*at(SOONEST_S))).dt == 0 and again.fault is None
    assert check.check(*at(1.9 * SOONEST_S)).dt == 0
    assert check.check(*at(2.5 * SOONEST_S)).dt == pytest.approx(1.5 * SOONEST_S)
    check.restart()
    assert check.check(*at(1e6)).dt == LONGEST_S


FULL = {name: SimpleNamespace(range_min=700, range_max=3400) for name in JOINTS}


def narrowed(**changes):
    return FULL | {name: SimpleNamespace(range_min=low, range_max=high) for name, (low, high) in changes.items()}


PACES = {  # of docs/gate.md: margin of position; rate, acceleration, step of a joint, and of the gripper; tip's box
    "careful": (5.0, (30, 120, 12), (50, 250, 20), Box(x_low=0, z_low=0.02)),
    "normal": (1.0, (120, 600, 25), (200, 1000, 40), Box()),
    "trained": (0.5, (160, 9000, 45), (300, 18000, 70), Box()),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("calibration", [None, narrowed(elbow_flex=(1500, 2500), wrist_flex=(2000, 2228))])
def test_a_preset_is_as_documented_and_a_calibration_only_narrows_it(preset, calibration):
    edge, joint_pace, gripper_pace, box = PACES[preset]
    limits, halves = so101(preset, calibration), {"elbow_flex": 500, "wrist_flex": 114}
    assert limits.names == JOINTS and limits.box == box
    for name, (low, high) in RANGES.items():
        half = halves.get(name, 1350) * 360 / 4095 if calibration else np.inf
        joint = JointLimits(max(low, -half) + edge, min(high, half) - edge, *joint_pace, 8)
        holds = JointLimits(low, high, *gripper_pace)  # things: so it is never stalled
        assert limits.joints[name] == (holds if name == GRIPPER else joint)
