"""A LeRobot robot behind the gate: the real driver, whose serial port leads to servos that speak the wire protocol."""

import contextlib
import itertools
import os
import signal
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import serial
from lerobot.utils.errors import DeviceNotConnectedError

from robot.arms import connect
from robot.safety import shutdown
from robot.safety.gate import Gate
from robot.safety.gated import GIVE_UP, GatedRobot
from robot.safety.limits import JointLimits, Limits
from robot.safety.stops import SIGNALS, NotReleasable, RobotFault, Stopped, StopSignals, handled


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


@pytest.mark.parametrize("value", [float("nan"), "up"])
def test_what_kills_lerobots_loop_is_a_fault_that_brakes_and_holds(arm, value, caplog):
    with arm.robot as robot:
        move(arm, 30)
        for _ in range(30):
            held = robot.send_action(to(robot, 30.0) | {"elbow_flex.pos": value})
            arm.clock.sleep(1 / 30)
        assert robot.fault.kind in ("not-finite", "shape")
        assert caplog.messages == [f"arm stopped: {robot.fault}"]
        assert robot.command.resting
        assert robot.send_action(to(robot, 30.0)) == held
        robot.release()
        assert abs(move(arm, 120)[-1] - 30) < 0.01


@pytest.mark.parametrize("on", [False, True])
def test_a_servo_in_trouble_is_released_and_reported(arm, monkeypatch, on):
    """Where its torque reads as on, it is told once more: what was read may have been of before. Twice, it is on."""
    bus = arm.robot.robot.bus
    read, torques = bus.sync_read, [1, int(on)]
    noted = lambda name, *given, **more: {given[0]: torques.pop(0)} if name == "Torque_Enable" else read(name, *given)  # noqa: E731
    says = "elbow_flex is released, but its servo was in trouble: Overload"
    undone = pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="Overload error"))
    with undone if on else pytest.warns(UserWarning, match=says), arm.robot:
        move(arm, 3)
        monkeypatch.setattr(bus, "sync_read", noted)
        arm.chain.strained = 3
        arm.chain.log.clear()
    assert arm.chain.torques() == [0] * 6 and arm.chain.log[-1] == "close" and not torques
    assert [arm.chain.log.count(f"release {i}") for i in (1, 2, 4, 5, 6)] == [1] * 5


@pytest.mark.parametrize("how", ["the cable is out", "connected again", "a pause"])
def test_an_arm_that_was_moved_meanwhile_goes_on_from_where_it_is(arm, how, caplog):
    robot = arm.robot
    robot.connect()
    assert move(arm, 120)[-1] > 29
    if how == "the cable is out":
        arm.chain.pulled = True
        with pytest.raises(RobotFault, match=r"driver: the robot cannot be read: .*unplugged"):
            robot.get_observation()
        assert caplog.messages == [f"arm stopped: {robot.fault}"]
        with pytest.raises(NotReleasable, match="not released"):
            robot.release()
    elif how == "connected again":
        robot.disconnect()
    else:
        robot.rest()
        assert robot.command.resting
        arm.clock.sleep(20)
    arm.chain.move(1, -40.0)
    arm.chain.pulled = False
    if not robot.is_connected:
        robot.connect()
    held = move(arm, 20)
    if how == "a pause":
        assert robot.fault is None
    else:
        assert robot.fault.kind in ("driver", "stop") and robot.command.resting
        robot.release()
    sent = [*held, *move(arm, 120)]
    assert abs(sent[0] + 40) < 1
    assert max(b - a for a, b in itertools.pairwise(sent)) < 2
    assert abs(sent[-1] - 30) < 0.01
    robot.disconnect()


def test_a_cable_pulled_for_good_ends_with_every_error_and_the_data_closed(arm):
    arm.robot.connect()
    move(arm, 30)
    arm.robot.close_with(lambda: arm.chain.log.append("data"))
    arm.chain.pulled = True
    with pytest.raises(ExceptionGroup) as caught:
        arm.robot.disconnect()
    tried = [note for error in caught.value.exceptions for note in error.__notes__]
    assert tried.count("while trying to brake") == GIVE_UP and "while trying to release gripper" in tried
    assert arm.chain.log[-2:] == ["close", "data"]
    assert not arm.robot.is_connected
    with pytest.raises(DeviceNotConnectedError):
        arm.robot.disconnect()


def test_a_packet_that_fails_half_way_keeps_no_other_motor_from_being_released(arm):
    carry = arm.chain.carry

    def half(data):
        if data[2] == 2:
            raise serial.SerialException("half a packet")
        carry(data)

    with pytest.raises(ExceptionGroup, match="1 errors") as caught, arm.robot:
        move(arm, 3)
        arm.chain.carry = half
    assert caught.value.exceptions[0].__notes__ == ["while trying to release shoulder_lift"]
    assert arm.chain.torques() == [0, 1, 0, 0, 0, 0] and arm.chain.log[-1] == "close"


def test_every_camera_is_closed_though_one_is_stuck_and_one_is_lost(arm):
    cameras = {name: Mock(is_connected=name != "lost") for name in ("stuck", "lost", "well")}
    cameras["stuck"].disconnect.side_effect = OSError
    with pytest.raises(ExceptionGroup) as caught, arm.robot:
        move(arm, 3)
        arm.inner.cameras = cameras
        assert arm.robot.is_connected  # though LeRobot says no, and sends no command
    assert caught.value.exceptions[-1].__notes__ == ["while trying to close the camera stuck"]
    assert [camera.disconnect.call_count for camera in cameras.values()] == [1, 0, 1]
    assert arm.chain.torques() == [0] * 6 and arm.chain.log[-1] == "close"
    bare = Mock(is_connected=True, cameras={})  # without a motors' bus
    assert shutdown.close(bare) == [] and bare.disconnect.call_count == 1


def test_a_connection_that_fails_half_way_leaves_no_torque_and_no_open_port(arm, monkeypatch):
    def fail():
        arm.inner.bus.enable_torque()
        raise RuntimeError("no camera")

    monkeypatch.setattr(arm.inner, "configure", fail)
    with pytest.raises(RuntimeError, match="no camera"):
        arm.robot.connect()
    assert arm.chain.torques() == [0] * 6 and arm.chain.log[-1] == "close"


def test_it_goes_stiff_where_it_is_and_not_at_all_with_another_calibration(arm):
    arm.chain.move(1, -40.0)  # its servo's goal is still the middle
    connect(arm.robot)
    assert arm.chain.torques() == [1] * 6
    assert abs(arm.robot.get_observation()["shoulder_pan.pos"] + 40) < 0.1
    arm.robot.disconnect()
    arm.chain.log.clear()
    arm.chain.servos[3]["Homing_Offset"] = 7
    with pytest.raises(ValueError, match=r"arm\.json: not the calibration that the arm's servos hold; lerobot-cal"):
        connect(arm.robot)
    assert not any("stiffen" in entry for entry in arm.chain.log) and arm.chain.log[-1] == "close"


@pytest.mark.parametrize("off", [False, True, None])
def test_torque_stays_on_only_where_the_config_says_so(arm, off):
    """A robot whose config has no such key is released."""
    given = {} if off is None else {"disable_torque_on_disconnect": off}
    without = {key: value for key, value in vars(arm.inner.config).items() if "torque" not in key}
    arm.inner.config = SimpleNamespace(**without | given)
    with arm.robot:
        move(arm, 3)
    assert arm.chain.torques() == [int(off is False)] * 6


def test_a_robot_of_other_joints_or_units_or_with_its_own_step_limit_is_refused(arm):
    other, config = Gate(Limits({"j": JointLimits(0, 1, 1, 1, 1)})), arm.inner.config
    stranger = SimpleNamespace(name="base", action_features={"x.vel": float}, config=None)
    for robot, keys, gate, line in (
        (arm.inner, {}, other, r"the limits are for j\.pos"),
        (arm.inner, {"max_relative_target": 5.0}, arm.robot.gate, "max_relative_target: leave it unset"),
        (arm.inner, {"max_relative_target": None, "use_degrees": False}, arm.robot.gate, "use_degrees=false: leave"),
        (stranger, {}, other, r"base: is commanded by x\.vel"),
    ):
        for name, value in keys.items():
            setattr(config, name, value)
        with pytest.raises(ValueError, match=line):
            GatedRobot(robot, gate)


ENDS = {number.name: lambda arm, number=number: os.kill(os.getpid(), number) for number in SIGNALS} | {
    "the policy failed": lambda arm: {}["the policy failed"],
    "driver: the robot cannot be read": lambda arm: setattr(arm.chain, "dead", 2),
    "": lambda arm: None,  # it is over
}


@pytest.fixture
def hangs_up():
    """Handles SIGHUP as a terminal's programs do, and leaves it as it was (ignored, where the tests run by nohup)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
def test_the_first_signal_is_raised_once_and_while_held_it_waits_and_an_ignored_hang_up_stays_so():
    signals, before, got = StopSignals(), [signal.getsignal(number) for number in SIGNALS], []
    with pytest.raises(Stopped, match="stopped by SIGTERM") as stopped:
        signals.listen()
        signals.listen()
        with signals.held():
            with signals.held():
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            got.append("held")
    os.kill(os.getpid(), signal.SIGHUP)  # it is ending already
    assert (stopped.value.number, got, signals.restore()) == (signal.SIGTERM, ["held"], None)
    signals.listen()
    with pytest.raises(Stopped, match="SIGHUP"):
        os.kill(os.getpid(), signal.SIGHUP)
        got.append("not at once")
    assert signals.restore() is None
    signals.listen()
    with signals.held():
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.restore() == signal.SIGINT  # and it is no longer raised
    thread = threading.Thread(target=signals.listen)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signals.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    signals.restore()
    with handled(lambda number, _: got.append(number)):
        for number in SIGNALS:
            os.kill(os.getpid(), number)
    assert got == ["held", signal.SIGINT, signal.SIGTERM]
    assert [signal.getsignal(number) for number in SIGNALS] == [*before[:2], signal.SIG_IGN]


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("reason", ENDS)
def test_whatever_ends_the_loop_the_end_is_brake_release_each_motor_close_the_port_close_the_data(arm, reason):
    arm.robot.close_with(lambda: arm.chain.log.append("data"))
    before = [signal.getsignal(number) for number in SIGNALS]
    stops = pytest.raises((Stopped, KeyError, RobotFault), match=reason) if reason else contextlib.nullcontext()
    with stops as ended, arm.robot:
        move(arm, 11, 90.0)
        assert arm.robot.command.rate[0] > 5
        arm.chain.log.clear()
        ENDS[reason](arm)
        if reason:
            move(arm, 5, 90.0)
    log = arm.chain.log
    alive = [i for i in range(1, 7) if i != arm.chain.dead]
    assert arm.chain.torques() == [int(i not in alive) for i in range(1, 7)]
    assert len(alive) == 6 or any("release shoulder_lift" in note for note in ended.value.__notes__)
    end = log[len(log) - log[::-1].index("goal") :]
    places = [*(end.index(f"release {i}") for i in alive), end.index("close"), end.index("data")]
    assert places == sorted(places)
    assert log.count("goal") > 1 and arm.robot.command.resting and not arm.robot.is_connected
    assert [signal.getsignal(number) for number in SIGNALS] == before
