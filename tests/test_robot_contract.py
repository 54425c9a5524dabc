"""Two contracts. Every robot keeps the same laws from above: simulated, LeRobot's driver, the twin, and each behind the
gate. Every driver of the loop keeps the same laws from below: script, policy, person, planner, written plan."""

import contextlib
import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from configs.arm.recording import PolicyDriver
from envs.settings import TaskConfig
from robot.arms import gated
from robot.config_so101 import SemagramSO101Config, SO101SimConfig
from robot.drivers import PlanFollower, ScriptDriver, TeleopDriver, WrittenDriver
from robot.loop import Loop, Reading
from robot.safety.limits import ARM
from robot.safety.stops import RobotFault
from robot.so101 import SO101, SemagramSO101, SO101Sim
from robot.ticks import SimulatedTime, Ticks
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS, Targets
from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

KEYS = [f"{joint}.pos" for joint in JOINTS]
HZ = 30.0


@pytest.fixture(scope="module")
def slow_line(patient_driver):
    """The twin answers late on a loaded machine."""


@pytest.fixture(params=["simulated", "LeRobot's driver", "twin", "gated simulated", "gated driver", "robot type"])
def case(request, arms, monkeypatch, tmp_path):
    """A robot, not connected, and `wait`, which lets a control period pass."""
    kind, wait = request.param, lambda: None
    if "simulated" in kind:
        robot = SO101Sim(SO101SimConfig(control_hz=HZ))
        if kind.startswith("gated"):
            robot = gated(robot, "trained", clock=SimulatedTime(robot))
    elif kind == "twin":
        served = request.getfixturevalue("served")
        request.getfixturevalue("slow_line")
        request.getfixturevalue("twin")
        config = SemagramSO101Config(port=served.port(), id="twin", calibration_dir=served.folder)
        robot, wait = SO101(config), lambda: time.sleep(1 / HZ)
    else:
        arm = arms.WiredArm(tmp_path, monkeypatch.setattr)
        config = SemagramSO101Config(port="wire", id="arm", calibration_dir=tmp_path, limits="trained")
        robots = {
            "LeRobot's driver": lambda: arm.inner,
            "gated driver": lambda: gated(arm.inner, "trained", False, arm.clock),
        }
        robot, wait = robots.get(kind, lambda: SemagramSO101(config, arm.clock))(), lambda: arm.clock.sleep(1 / HZ)
    yield SimpleNamespace(robot=robot, wait=wait)
    if robot.is_connected:
        robot.disconnect()


def drive(case, goal: dict, steps: int) -> dict:
    """Send a goal again and again; the last observation."""
    for _ in range(steps):
        case.robot.get_observation()
        sent = case.robot.send_action(goal)
        assert list(sent) == KEYS and all(math.isfinite(value) for value in sent.values())
        case.wait()
    return case.robot.get_observation()


def test_it_is_commanded_and_read_by_the_joints_of_its_features(case):
    assert list(case.robot.action_features) == KEYS
    assert list(case.robot.observation_features)[:6] == KEYS
    case.robot.connect()
    seen = case.robot.get_observation()
    assert list(seen) == list(case.robot.observation_features)
    assert all(isinstance(seen[key], float) for key in KEYS)


def test_unconnected_it_neither_observes_nor_moves_and_connected_it_is_not_connected_again(case):
    for _ in range(2):  # also after it was disconnected
        for call in (case.robot.get_observation, lambda: case.robot.send_action(dict.fromkeys(KEYS, 0.0))):
            with pytest.raises((DeviceNotConnectedError, RobotFault)):
                call()
        assert not case.robot.is_connected
        case.robot.connect()
        assert case.robot.is_connected and case.robot.is_calibrated
        with pytest.raises(DeviceAlreadyConnectedError):
            case.robot.connect()
        assert case.robot.is_connected
        case.robot.disconnect()


def test_it_goes_where_it_is_sent(case):
    case.robot.connect()
    goal = dict(zip(KEYS, [20.0, -60.0, 60.0, 30.0, -20.0, 40.0], strict=True))
    seen = drive(case, goal, 90)
    assert [seen[key] for key in KEYS] == pytest.approx(list(goal.values()), abs=3.0)


def test_a_goal_that_is_no_number_moves_nothing(case):
    """Whether it is refused, or a fault that brakes and holds."""
    case.robot.connect()
    before = drive(case, case.robot.get_observation(), 20)
    for _ in range(5):
        with contextlib.suppress(ValueError, OverflowError, RobotFault):
            case.robot.send_action({key: before[key] for key in KEYS} | {"shoulder_pan.pos": math.nan})
        case.wait()
    after = case.robot.get_observation()
    assert [after[key] for key in KEYS] == pytest.approx([before[key] for key in KEYS], abs=1.0)


class Agent:
    """Acts by what its generator draws."""

    def __init__(self):
        self.generator, self.reset = torch.Generator(), lambda ended: None

    def act(self, observation):
        return torch.rand(1, 6, generator=self.generator) * 2 - 1


@pytest.fixture
def arm():
    """The simulated arm behind the gate, in its own time, connected."""
    inner = SO101Sim(SO101SimConfig(control_hz=HZ))
    clock = SimulatedTime(inner)
    with gated(inner, "normal", stop_on_fault=True, clock=clock) as robot:
        yield SimpleNamespace(robot=robot, inner=inner, clock=clock)


@pytest.fixture(params=["script", "policy", "person", "planner", "written"])
def driver(request, arm, arms):
    targets = Targets.at(HZ, *so101.limits(arm.inner.scene))
    loaded = SimpleNamespace(agent=Agent(), task=TaskConfig("so101-touch"))
    loaded.spec = SimpleNamespace(senses={STATE_KEY: (37,), LANGUAGE_KEY: (256,)})
    state = {"follow": lambda *given: None, "state": lambda ahead: np.zeros(3, np.float32)}
    leader = arms.Leader(lambda step: (10.0, -50.0, 50.0, 20.0, 0.0, 30.0))
    planner = arms.FakePlanner(otherwise=0, action=lambda number, since: 0.3 * (-1) ** since)
    items = [(i / HZ, np.full(6, 0.1 * math.sin(i / 5))) for i in range(60)]
    return {
        "script": lambda: ScriptDriver(arm.inner),
        "policy": lambda: PolicyDriver(arm.inner, loaded),
        "person": lambda: TeleopDriver(leader, KEYS, ARM),
        "planner": lambda: PlanFollower(SimpleNamespace(targets=targets, **state), planner, HZ, 2),
        "written": lambda: WrittenDriver(items, lambda action: action * ARM.high, lambda at, event: None),
    }[request.param]()


def episode(arm, driver, seed=3, steps=40) -> list:
    """The steps of an episode from a layout."""
    kept = []
    arm.inner.reset(seed)
    arm.robot.forget()
    driver.begin(seed)
    loop = Loop(arm.robot, arm.inner.units, Ticks(HZ, arm.clock), [kept.append])
    assert loop.episode(driver, steps, lambda: arm.inner.success) in (True, False)
    loop.rest()
    return kept


def test_a_driver_gives_targets_that_the_gate_sends_and_each_step_reaches_the_sinks(arm, driver):
    kept = episode(arm, driver)
    assert [step.number for step in kept] == list(range(len(kept))) and len(kept) >= 40 * driver.started
    rate = np.radians(arm.robot.gate.limits.column("rate"))
    for before, step in itertools.pairwise(kept):
        assert step.at_s - before.at_s == pytest.approx(1 / HZ, abs=1e-3)
        assert (np.abs(step.sent - before.sent)[:5] <= rate[:5] / HZ + 1e-6).all()
        np.testing.assert_allclose(arm.inner.units.to_rad(arm.robot.values(step.action)), step.sent)
    assert all(0 <= step.work_s < 0.2 for step in kept)
    assert np.abs(kept[-1].sent - kept[0].sent).max() > 0.01  # it moved
    assert arm.robot.command.resting
    driver.close()
    driver.close()


def test_a_drivers_goal_is_of_the_arm_and_leaves_alone_what_it_was_given(arm, driver):
    driver.begin(5)
    joints = arm.inner.units.to_rad(arm.robot.values(arm.robot.get_observation()))
    reading, last = Reading({}, joints.copy(), joints.copy(), 0.0), joints.copy()
    for _ in range(5):
        goal = driver.goal(reading, last)
        assert goal.shape == (6,) and np.isfinite(goal).all()
        assert driver.watch(reading) is None
        driver.sent(goal)
        np.testing.assert_array_equal([reading.joints, last], [joints, joints])


def test_the_same_beginning_gives_the_same_episode(arm, driver):
    if isinstance(driver, WrittenDriver):
        return  # a plan is played once
    one, other = ([step.sent for step in episode(arm, driver)] for _ in range(2))
    np.testing.assert_allclose(one, other, atol=1e-4)  # simulated time passes as it is asked for


def test_a_leader_arm_that_lacks_a_joint_is_refused_before_it_is_connected(arms):
    leader = arms.Leader(None)
    leader.action_features = {"shoulder_pan.pos": float}
    with pytest.raises(UserError, match=r"moves shoulder_pan\.pos, not shoulder_lift\.pos"):
        TeleopDriver(leader, KEYS, ARM)
    assert not leader.is_connected
