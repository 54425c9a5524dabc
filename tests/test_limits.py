"""Limits: presets stay within the arm and its calibration, and a mistake is one clear line."""

from types import SimpleNamespace

import pytest

from robot.safety.limits import PRESETS, Box, JointLimits, Limits, so101
from sim.joints import JOINTS

FULL = {name: SimpleNamespace(range_min=700, range_max=3400) for name in JOINTS}


def narrowed(**changes):
    return FULL | {name: SimpleNamespace(range_min=low, range_max=high) for name, (low, high) in changes.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_arms_joints_and_a_calibration_only_narrows_it(preset):
    plain = so101(preset)
    assert plain.names == JOINTS
    calibrated = so101(preset, narrowed(elbow_flex=(1500, 2500), wrist_roll=(0, 4095)))
    assert (calibrated.column("low") >= plain.column("low")).all()
    assert (calibrated.column("high") <= plain.column("high")).all()
    half = 500 * 360 / 4095
    assert -half < calibrated.joints["elbow_flex"].low < -half + 6
    assert calibrated.joints["wrist_roll"] == plain.joints["wrist_roll"]


def test_careful_is_tighter_than_normal_in_everything():
    careful, normal = so101("careful"), so101("normal")
    for field in ("rate", "acceleration", "step", "high"):
        assert (careful.column(field) <= normal.column(field)).all()
    assert (careful.column("low") >= normal.column("low")).all()
    assert (careful.box.low >= normal.box.low).all()


JOINT = {"low": -1.0, "high": 1.0, "rate": 1.0, "acceleration": 1.0, "step": 1.0}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: so101("brave"), "limits=brave: one of careful, normal, trained"),
        (lambda: so101("careful", {"gripper": FULL["gripper"]}), "no joint 'shoulder_pan', only gripper"),
        (lambda: so101("careful", narrowed(elbow_flex=(2000, 2001))), "elbow_flex from 2000 to 2001: no range"),
        (lambda: JointLimits(**JOINT | {"low": 2.0}), "low=2.0: below high, 1.0"),
        (lambda: JointLimits(**JOINT | {"high": float("nan")}), "high=nan: from "),
        (lambda: JointLimits(**JOINT | {"rate": 0.0}), "rate=0.0: from 0.001"),
        (lambda: JointLimits(**JOINT | {"acceleration": -1.0}), "acceleration=-1.0: from 0.001"),
        (lambda: JointLimits(**JOINT | {"step": float("inf")}), "step=inf: from 0.001"),
        (lambda: JointLimits(**JOINT | {"rate": 11.0}), "rate=11.0: at most 10 s of acceleration, 1.0"),
        (lambda: Box(z_low=1.0, z_high=0.5), "box.z_low=1.0: below box.z_high, 0.5"),
        (lambda: Limits({}), "joints: at least one"),
        (lambda: Limits({"j": 3.0}), "joints.j=3.0: JointLimits"),
        (lambda: Limits({"j": JointLimits(**JOINT)}, loop_s=0.0), "loop_s=0.0: above 0"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_says_what_would_be_right(make, line):
    with pytest.raises(ValueError) as error:
        make()
    assert line in str(error.value)
    assert "\n" not in str(error.value)
