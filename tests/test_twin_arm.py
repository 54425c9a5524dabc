"""The simulated arm behind the servos: steps and angles agree, goals are reached, hands and stops are felt."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.so101.joints import JOINTS
from sim.so101.kinematics import arm_file
from sim.twin.arm import (
    BACKLOG_S,
    BURST,
    JointCalibration,
    TwinArm,
    build,
    calibration_text,
    fitting,
    limits,
    read_calibration,
    scale,
)
from sim.twin.servo import OVERLOADED, STEPS


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def arm(model):
    return TwinArm(model, fitting(limits(model)))


def on(arm: TwinArm) -> None:
    for servo in arm.servos.values():
        servo.write(40, b"\x01")
        servo["P_Coefficient"] = 16


def run(arm: TwinArm, seconds: float) -> None:
    for _ in range(round(seconds / arm.dt_s)):
        arm.step()


def goal(arm: TwinArm, joint: str, angle: float) -> None:
    servo = arm.servos[joint]
    servo["Goal_Position"] = round(arm.scales[joint].steps(angle)) - servo["Homing_Offset"]


calibrations = st.builds(
    lambda offset, low, span: JointCalibration(1, 0, offset, low, min(low + span, STEPS - 1)),
    st.integers(-2047, 2047),
    st.integers(0, STEPS - 2),
    st.integers(1, STEPS),
)


@given(calibrations)
def test_zero_is_the_middle_of_the_range_and_the_gripper_spans_it(calibration):
    low, high, offset = calibration.range_min, calibration.range_max, calibration.homing_offset
    body, gripper = scale("elbow_flex", calibration, (-1.0, 2.0)), scale("gripper", calibration, (-0.2, 1.7))
    assert abs(body.steps(0) - offset - (low + high) / 2) < 1e-9
    assert abs(body.steps(2 * np.pi) - body.steps(0) - STEPS) < 1e-9
    assert abs(gripper.steps(-0.2) - offset - low) < 1e-6 and abs(gripper.steps(1.7) - offset - high) < 1e-6


def test_a_calibration_is_read_as_it_was_written_and_a_wrong_one_refused_in_one_line(model, tmp_path):
    calibration, path = fitting(limits(model)), tmp_path / "arm.json"
    path.write_text(calibration_text(calibration))
    assert read_calibration(path) == calibration
    entries = json.loads(calibration_text(calibration))
    for joint, change, message in (
        ("elbow_flex", {"range_min": 9, "range_max": 9}, "min < max"),
        ("elbow_flex", {"homing_offset": 2048}, "2047"),
        ("elbow_flex", {"id": 1}, "one id"),
        ("elbow", {}, "an SO-101's joints are"),
    ):
        path.write_text(json.dumps(entries | {joint: entries.get(joint, {}) | change}))
        with pytest.raises(ValueError, match=message) as refusal:
            read_calibration(path)
        assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)


def test_every_joint_goes_where_its_goal_says_and_reports_it(arm):
    on(arm)
    wanted = dict(zip(JOINTS, (0.5, -0.6, 0.4, -0.3, 1.2, 0.9), strict=True))
    for joint, angle in wanted.items():
        goal(arm, joint, angle)
    run(arm, 2.0)
    for joint, angle in wanted.items():
        servo = arm.servos[joint]
        assert abs(arm.angle(joint) - angle) < 0.01
        assert abs(servo["Present_Position"] - servo["Goal_Position"]) <= 6
        assert abs(servo["Present_Velocity"]) < 20 and servo["Moving"] == 0
        assert servo["Present_Load"] == round(1000 * arm.data.actuator(joint).force[0] / 2.94)


def test_the_arm_falls_when_its_torque_goes(arm):
    on(arm)
    for joint in ("shoulder_lift", "elbow_flex"):
        goal(arm, joint, 0.0)
    run(arm, 2.0)
    raised = arm.data.site("gripperframe").xpos[2]
    for servo in arm.servos.values():
        servo.power_off()
    run(arm, 2.0)
    assert arm.data.site("gripperframe").xpos[2] < raised - 0.05


def test_a_held_joint_does_not_move_and_its_servo_gives_up(arm):
    on(arm)
    arm.hold("shoulder_pan")
    goal(arm, "shoulder_pan", 1.0)
    run(arm, 1.0)
    servo = arm.servos["shoulder_pan"]
    assert abs(arm.angle("shoulder_pan")) < 0.02 and servo["Present_Load"] == 1000 and not servo["Status"]
    run(arm, 1.5)
    assert servo["Status"] == OVERLOADED and abs(servo["Present_Load"]) <= 200
    arm.hold("shoulder_pan", 0.3)
    run(arm, 1.0)
    assert abs(arm.angle("shoulder_pan") - 0.3) < 0.02
    arm.hold("shoulder_pan", 99.0)
    run(arm, 1.0)
    assert abs(arm.angle("shoulder_pan") - limits(arm.model)["shoulder_pan"][1]) < 0.02
    arm.let_go("shoulder_pan")
    servo.write(40, b"\x01")
    goal(arm, "shoulder_pan", 1.0)
    run(arm, 1.5)
    assert abs(arm.angle("shoulder_pan") - 1.0) < 0.01


@settings(max_examples=20)
@given(st.lists(st.floats(0, 2), min_size=1, max_size=4))
def test_time_is_caught_up_in_bursts_and_a_long_stall_is_let_go(model, stalls):
    arm = TwinArm(model, fitting(limits(model)))
    on(arm)
    goal(arm, "shoulder_pan", 1.0)
    now = 0.0
    arm.advance(now)
    for stall in stalls:
        now += stall
        turns = 1
        while not arm.advance(now):
            turns += 1
        assert turns <= BACKLOG_S / arm.dt_s / BURST + 2
        assert abs(arm.data.time + arm.dropped_s - now) <= arm.dt_s * 1.01
    assert np.isfinite(arm.data.qpos).all() and abs(arm.angle("shoulder_pan")) < 1.1
    assert arm.data.time >= min(sum(stalls), BACKLOG_S) - arm.dt_s


def test_reset_puts_the_arm_down_at_once_and_it_stays(arm):
    on(arm)
    goal(arm, "shoulder_pan", 1.0)
    run(arm, 0.3)
    arm.reset({"shoulder_pan": -0.5})
    assert arm.angle("shoulder_pan") == -0.5
    run(arm, 0.5)
    assert abs(arm.angle("shoulder_pan") + 0.5) < 0.01
    arm.reset({"shoulder_pan": 9.0})
    assert arm.angle("shoulder_pan") == limits(arm.model)["shoulder_pan"][1]
    for wrong in ({"elbow": 0.1}, {"elbow_flex": float("nan")}, {"elbow_flex": [1, 2]}):
        with pytest.raises(ValueError, match="elbow"):
            arm.reset(wrong)


def test_a_scene_brings_its_own_bodies(tmp_path):
    scene = tmp_path / "scene.xml"
    scene.write_text(
        f'<mujoco><include file="{arm_file()}"/><compiler meshdir="{arm_file().parent / "assets"}"/><worldbody>'
        '<geom type="plane" size="0 0 .1"/><body name="cube" pos=".3 0 .02"><freejoint/>'
        '<geom type="box" size=".01 .01 .01" mass=".02"/></body></worldbody></mujoco>'
    )
    model = build(scene)
    arm = TwinArm(model, fitting(limits(model)))
    arm.reset(bodies={"cube": [0.2, 0.1, 0.01, 1, 0, 0, 0]})
    assert arm.state()["bodies"]["cube"][:2] == pytest.approx([0.2, 0.1])
    scene.write_text("<mujoco><worldbody/></mujoco>")
    with pytest.raises(ValueError, match="no joint shoulder_pan"):
        build(scene)
