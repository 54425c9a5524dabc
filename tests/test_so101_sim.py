"""The simulated SO-101 has the features, units and habits of the real one; test_robot_contract.py has more laws."""

import inspect

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lerobot.motors import MotorCalibration
from lerobot.robots.robot import Robot
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.robots.utils import make_robot_from_config
from lerobot.utils.errors import DeviceNotConnectedError

from robot.config_so101 import SimCameraConfig, SO101SimConfig
from sim.so101.joints import JOINTS, TICK_RAD, Units
from sim.so101.kinematics import SITE, Fingertip
from sim.twin.arm import build

LOW, HIGH = np.array([-1.2, -1.7, -1.6, -1.6, -2.7, -0.17]), np.array([1.9, 1.7, 1.6, 1.6, 2.7, 1.74])
SHARES = arrays(np.float64, 6, elements=st.floats(0, 1))


@pytest.fixture
def simulated(tmp_path):
    robot = make_robot_from_config(SO101SimConfig(id="a", calibration_dir=tmp_path))
    robot.connect()
    yield robot
    if robot.is_connected:
        robot.disconnect()


def test_it_has_the_features_and_methods_of_the_real_one(simulated, tmp_path):
    """Of LeRobot's own driver, without an arm: it tells its features all the same."""
    real = make_robot_from_config(SO101FollowerConfig(port="/dev/null", id="a", calibration_dir=tmp_path))
    assert simulated.observation_features == real.observation_features
    assert list(simulated.action_features.items()) == list(real.action_features.items())
    assert set(simulated.cameras) == set(real.cameras)
    for name, _ in inspect.getmembers(Robot, inspect.isfunction):
        if not name.startswith("_"):
            ours, theirs = getattr(type(simulated), name), getattr(type(real), name)
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_the_gates_tip_is_the_one_that_is_trained_and_the_twins(simulated):
    """Else the box would guard another point than the one that touches things."""
    tip, rng = Fingertip(), np.random.default_rng(0)
    models = [simulated.scene.unwrapped.model, build()]
    for angles in [np.zeros(6), *rng.uniform(LOW, HIGH, (20, 6))]:
        place, change = tip.place(np.rad2deg(angles))
        for model in models:
            data = mujoco.MjData(model)
            data.qpos[:6] = angles
            mujoco.mj_kinematics(model, data)
            base = data.body("base")
            there = base.xmat.reshape(3, 3).T @ (data.site(SITE).xpos - base.xpos)
            np.testing.assert_allclose(place, there, atol=1e-6)
        moved = [tip.place(np.rad2deg(angles + step))[0] for step in 1e-6 * np.eye(6)]
        np.testing.assert_allclose(change, (np.transpose(moved) - place[:, None]) / 1e-6, atol=1e-5)
        assert (np.linalg.norm(change, axis=0) <= tip.reach + 1e-9).all()  # an arm's length at most


@given(SHARES)
def test_units_are_those_of_the_real_driver_and_there_and_back(share):
    """Of a calibration whose middle is the simulation's zero, as LeRobot's own procedure makes it."""
    angles, units = LOW + share * (HIGH - LOW), Units(LOW, HIGH)
    ends = np.round(np.array([LOW, HIGH]) / TICK_RAD).astype(int) + 2047
    bus = SO101Follower(SO101FollowerConfig(port="/dev/null")).bus
    bus.calibration = {
        joint: MotorCalibration(i + 1, 0, 0, int(ends[0, i]), int(ends[1, i])) for i, joint in enumerate(JOINTS)
    }
    ticks = {i + 1: round(angle / TICK_RAD) + 2047 for i, angle in enumerate(angles)}
    np.testing.assert_allclose(units.read(angles), np.array(list(bus._normalize(ticks).values())), atol=0.15)
    np.testing.assert_allclose(units.to_rad(units.from_rad(angles)), angles, atol=1e-12)
    assert np.all(np.abs(units.to_rad(units.read(angles)) - angles) <= TICK_RAD / 2 + 1e-12)
    np.testing.assert_allclose(units.shares(angles), 2 * share - 1, atol=1e-12)
    np.testing.assert_allclose(units.at(2 * share - 1), angles, atol=1e-12)


def test_no_target_leaves_a_joints_range_and_one_that_is_not_finite_is_refused_and_nothing_moves(simulated):
    low, high = simulated.scene.action_space.low, simulated.scene.action_space.high
    for value in (1e6, -1e6):
        sent = simulated.send_action(dict.fromkeys([f"{joint}.pos" for joint in JOINTS], value))
        assert set(sent.values()) == {value}  # as the real driver in degrees, whose servos stop at their own limits
        assert np.all((simulated.scene.commanded >= low) & (simulated.scene.commanded <= high))
    before = simulated.scene.data.time
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"elbow_flex\.pos={value}: not a finite target"):
            simulated.send_action({"shoulder_pan.pos": 1.0, "elbow_flex.pos": value})
    with pytest.raises(ValueError, match=r"elbow\.pos: no such joint; they are shoulder_pan, "):
        simulated.send_action({"elbow.pos": 0.0})
    assert simulated.scene.data.time == before


def test_a_joint_that_is_not_named_keeps_its_target_and_a_command_lasts_a_control_period(tmp_path):
    config = SO101SimConfig(id="a", calibration_dir=tmp_path, control_hz=50.0)
    with make_robot_from_config(config) as robot:
        before = robot.scene.commanded.copy()
        start = robot.scene.data.time
        assert robot.send_action({"shoulder_pan.pos": 90.0}) == {"shoulder_pan.pos": 90.0}
        np.testing.assert_allclose(robot.scene.commanded[1:], before[1:], atol=1e-6)
        assert robot.scene.data.time - start == pytest.approx(0.02)


def test_cameras_show_the_scene_of_now(drawing, tmp_path):
    cameras = {"wrist": SimCameraConfig(width=64, height=48, fps=30, view="side")}
    robot = make_robot_from_config(SO101SimConfig(id="a", calibration_dir=tmp_path, cameras=cameras))
    assert robot.observation_features["wrist"] == (48, 64, 3)
    with robot:
        before = robot.get_observation()["wrist"]
        assert before.shape == (48, 64, 3) and before.dtype == np.uint8
        for _ in range(20):
            robot.send_action({"shoulder_lift.pos": 0.0, "elbow_flex.pos": 0.0})
        assert np.any(robot.get_observation()["wrist"] != before)
    assert not robot.cameras["wrist"].is_connected
    with pytest.raises(DeviceNotConnectedError):
        robot.cameras["wrist"].read()
