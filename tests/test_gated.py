"""A LeRobot robot behind the gate: the real driver, whose serial port leads to servos that speak the wire protocol."""

import itertools
import os
import signal
from types import SimpleNamespace

import pytest


@pytest.fixture
def arm(arms, monkeypatch, tmp_path):
    return arms.WiredArm(tmp_path, monkeypatch.setattr)


def to(robot, degrees: float) -> dict:
    return dict.fromkeys(robot.action_features, 0.0) | {"shoulder_pan.pos": degrees, "gripper.pos": 50.0}


def move(arm, steps=30, degrees=30.0):
    """Some steps of a loop at about 30 Hz; returns what was sent to the first joint."""
    sent = []
    for _ in range(steps):
        arm.robot.get_observation()
        sent.append(arm.robot.send_action(to(arm.robot, degrees))["shoulder_pan.pos"])
        arm.clock.sleep(1 / 30)
    return sent


def test_it_is_the_robot_it_wraps(arm):
    from lerobot.robots import Robot

    assert isinstance(arm.robot, Robot)
    for name in ("name", "config", "config_class", "id", "robot_type", "action_features", "observation_features"):
        assert getattr(arm.robot, name) == getattr(arm.inner, name)
    assert arm.robot.calibration is arm.inner.calibration


def test_the_end_is_brake_release_each_motor_close_the_port_close_the_data(arm):
    with arm.robot as robot:
        robot.close_with(lambda: arm.chain.log.append("data"))
        move(arm, 30)
        moving = robot.command.rate[0]
        assert moving > 5
        arm.chain.log.clear()
    log = arm.chain.log
    order = [entry for i, entry in enumerate(log) if i == 0 or log[i - 1] != entry]
    assert order == ["goal", *(f"release {i}" for i in range(1, 7)), "close", "data"]
    assert log.count("goal") > 1
    assert robot.command.resting
    assert not robot.is_connected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "up"])
def test_what_kills_lerobots_loop_is_a_fault_that_brakes_and_holds(arm, value):
    with arm.robot as robot:
        move(arm, 30)
        for _ in range(30):
            held = robot.send_action(to(robot, 30.0) | {"elbow_flex.pos": value})
            arm.clock.sleep(1 / 30)
        assert robot.fault.kind in ("not-finite", "shape")
        assert robot.command.resting
        assert robot.send_action(to(robot, 30.0)) == held
        robot.release()
        assert abs(move(arm, 120)[-1] - 30) < 0.01


def test_a_servo_that_stays_in_trouble_is_released_once_and_told_of(arm):
    with pytest.warns(UserWarning, match="elbow_flex is released, but its servo was in trouble: Overload"), arm.robot:
        move(arm, 3)
        arm.chain.strained = 3
        arm.chain.log.clear()
    assert arm.chain.torques() == [0] * 6
    assert [arm.chain.log.count(f"release {i}") for i in (1, 2, 4, 5, 6)] == [1] * 5
    assert arm.chain.log[-1] == "close"


@pytest.mark.parametrize("then", ["off", "well", "on"])
def test_a_servo_in_trouble_whose_torque_reads_as_on_is_told_once_more(arm, monkeypatch, then):
    """What was read may have been of before; where it is read twice, the torque is taken to be on."""
    bus = arm.robot.robot.bus
    read, torques = bus.sync_read, [1, then == "on"][: 1 + (then != "well")]

    def sync_read(name, motors=None, **more):
        if name != "Torque_Enable":
            return read(name, motors, **more)
        if then == "well":  # the first time mended it
            arm.chain.strained = None
        return {motors: torques.pop(0)}

    says = "elbow_flex is released, but its servo was in trouble: Overload"
    undone = pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="Overload error"))
    with undone if then == "on" else pytest.warns(UserWarning, match=says), arm.robot:
        move(arm, 3)
        monkeypatch.setattr(bus, "sync_read", sync_read)
        arm.chain.strained = 3
    assert not torques
    assert arm.chain.torques() == [0] * 6


def test_a_pulled_cable_is_a_fault_and_one_put_back_goes_on_from_where_the_arm_is_then(arm):
    from robot.safety.stops import NotReleasable, RobotFault

    with arm.robot as robot:
        assert move(arm, 120)[-1] > 29
        arm.chain.pulled = True
        with pytest.raises(RobotFault, match=r"driver: the robot cannot be read: .*unplugged"):
            robot.get_observation()
        with pytest.raises(NotReleasable, match="not released"):
            robot.release()
        arm.chain.move(1, -40.0)
        arm.chain.pulled = False
        held = move(arm, 20)
        assert robot.command.resting
        robot.release()
        check_no_jump([*held, *move(arm, 120)])


def check_no_jump(sent):
    """The arm was moved to -40 degrees, and is asked for 30."""
    assert abs(sent[0] + 40) < 1
    assert max(b - a for a, b in itertools.pairwise(sent)) < 2
    assert abs(sent[-1] - 30) < 0.01


def test_connected_again_it_goes_on_from_where_the_arm_is_then(arm):
    arm.robot.connect()
    assert move(arm, 120)[-1] > 29
    arm.robot.disconnect()
    arm.chain.move(1, -40.0)
    arm.robot.connect()
    held = move(arm, 3)
    assert arm.robot.fault.kind == "stop"
    arm.robot.release()
    check_no_jump([*held, *move(arm, 120)])
    arm.robot.disconnect()


def test_an_arm_that_sank_in_a_pause_is_not_pulled_back(arm):
    with arm.robot as robot:
        assert move(arm, 120)[-1] > 29
        robot.rest()
        assert robot.command.resting
        arm.clock.sleep(20)
        arm.chain.move(1, -40.0)
        check_no_jump(move(arm, 120))
        assert robot.fault is None


def test_a_cable_pulled_for_good_ends_with_every_error_and_the_data_closed(arm):
    arm.robot.connect()
    move(arm, 30)
    arm.robot.close_with(lambda: arm.chain.log.append("data"))
    arm.chain.pulled = True
    with pytest.raises(ExceptionGroup) as caught:
        arm.robot.disconnect()
    tried = {note for error in caught.value.exceptions for note in error.__notes__}
    assert {"while trying to brake", "while trying to release gripper"} <= tried
    assert arm.chain.log[-2:] == ["close", "data"]
    assert not arm.robot.is_connected


def test_errors_of_the_end_are_noted_on_what_ended_the_loop(arm):
    def fail():
        raise OSError("disk full")

    with pytest.raises(ZeroDivisionError) as caught, arm.robot as robot:
        robot.close_with(fail)
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["while trying to close the data: OSError('disk full')"]
    assert arm.chain.torques() == [0] * 6


def test_a_connection_that_fails_half_way_leaves_no_torque_and_no_open_port(arm, monkeypatch):
    def fail():
        arm.inner.bus.enable_torque()
        raise RuntimeError("no camera")

    monkeypatch.setattr(arm.inner, "configure", fail)
    with pytest.raises(RuntimeError, match="no camera"):
        arm.robot.connect()
    assert arm.chain.torques() == [0] * 6
    assert arm.chain.log[-1] == "close"


def test_it_goes_stiff_where_it_is_and_not_at_all_with_another_calibration(arm):
    from robot.arms import connect

    arm.chain.move(1, -40.0)  # its servo's goal is still the middle
    connect(arm.robot)
    assert arm.chain.torques() == [1] * 6
    assert abs(arm.robot.get_observation()["shoulder_pan.pos"] + 40) < 0.1
    arm.robot.disconnect()
    arm.chain.log.clear()
    arm.chain.memory[3][31] = 7
    with pytest.raises(ValueError, match=r"arm\.json: not the calibration that the arm's servos hold; lerobot-cal"):
        connect(arm.robot)
    assert not any("stiffen" in entry for entry in arm.chain.log)
    assert arm.chain.log[-1] == "close"


def test_torque_stays_on_where_the_config_says_so(arm):
    arm.inner.config.disable_torque_on_disconnect = False
    with arm.robot:
        move(arm, 3)
    assert arm.chain.torques() == [1] * 6


def test_a_robot_of_other_joints_or_units_or_with_its_own_step_limit_is_refused(arm):
    from robot.safety.gate import Gate
    from robot.safety.gated import GatedRobot
    from robot.safety.limits import JointLimits, Limits

    gate = Gate(Limits({"j": JointLimits(0, 1, 1, 1, 1)}))
    with pytest.raises(ValueError, match=r"the limits are for j\.pos"):
        GatedRobot(arm.inner, gate)
    arm.inner.config.max_relative_target = 5.0
    with pytest.raises(ValueError, match="max_relative_target: leave it unset"):
        GatedRobot(arm.inner, arm.robot.gate)
    arm.inner.config.max_relative_target, arm.inner.config.use_degrees = None, False
    with pytest.raises(ValueError, match="use_degrees=false: leave it unset"):
        GatedRobot(arm.inner, arm.robot.gate)
    stranger = SimpleNamespace(name="base", action_features={"x.vel": float}, config=None)
    with pytest.raises(ValueError, match=r"base: is commanded by x\.vel"):
        GatedRobot(stranger, gate)


ENDS = {
    "SIGINT": lambda arm: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM": lambda arm: os.kill(os.getpid(), signal.SIGTERM),
    "SIGHUP": lambda arm: os.kill(os.getpid(), signal.SIGHUP),
    "the policy failed": lambda arm: {}["the policy failed"],
    "driver: the robot cannot be read": lambda arm: setattr(arm.chain, "dead", 2),
}


@pytest.fixture
def hangs_up():
    """Handles SIGHUP as a terminal's programs do, and leaves it as it was (ignored, where the tests run by nohup)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_hang_up_stops_nothing(arm, hangs_up):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with arm.robot:
        move(arm)
        os.kill(os.getpid(), signal.SIGHUP)
        assert move(arm, 120)[-1] > 29
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("said", ENDS)
def test_a_signal_or_an_exception_ends_the_loop_in_the_same_order(arm, said):
    from robot.safety.stops import RobotFault, Stopped

    arm.robot.close_with(lambda: arm.chain.log.append("data"))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises((Stopped, KeyError, RobotFault), match=said) as ended, arm.robot:
        for k in itertools.count():
            move(arm, 1, 90.0)
            if k == 10:
                assert arm.robot.command.rate[0] > 5
                arm.chain.log.clear()
                ENDS[said](arm)
    log = arm.chain.log
    alive = [i for i in range(1, 7) if i != arm.chain.dead]
    assert arm.chain.torques() == [int(i not in alive) for i in range(1, 7)]
    assert len(alive) == 6 or any("release shoulder_lift" in note for note in ended.value.__notes__)
    end = log[len(log) - log[::-1].index("goal") :]
    places = [*(end.index(f"release {i}") for i in alive), end.index("close"), end.index("data")]
    assert places == sorted(places)
    assert log.count("goal") > 1 and arm.robot.command.resting
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
