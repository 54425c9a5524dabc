"""LeRobot's own driver, as it is, against semagram-twin as a process: it works, and each fault hurts as a real one."""

import contextlib
import json
import os
import signal
import socket
import termios
import threading
import time

import pytest

from configs.arm.twin_process import served
from robot.settings import port_of_twin
from sim.so101.joints import JOINTS
from sim.twin.control import TwinControl, control_of
from sim.twin.servo import PING, encode

pytestmark = pytest.mark.usefixtures("patient_driver")
START_S = 120.0  # a loaded machine


@pytest.fixture
def connect(served):
    """Connects LeRobot's SO-101; what is still connected in the end is cut off."""
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    robots = []

    def connect(twin=served):
        robot = SO101Follower(SO101FollowerConfig(port=twin.port(), id="twin", calibration_dir=twin.folder))
        robots.append(robot)
        robot.connect()
        return robot

    yield connect
    for robot in robots:
        if robot.bus.port_handler.is_open:
            robot.bus.port_handler.closePort()


def move(robot, joint: str, to: float, seconds: float = 1.5) -> dict:
    """Send a joint somewhere and watch; the last observation."""
    seen = robot.get_observation()
    goal = seen | {f"{joint}.pos": to}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        robot.send_action(goal)
        time.sleep(0.03)
        seen = robot.get_observation()
        if abs(seen[f"{joint}.pos"] - to) < 0.3:
            break
    return seen


def torque(twin: TwinControl) -> list[bool]:
    return [joint["torque_on"] for joint in twin.ask("state")["joints"].values()]


def test_it_connects_without_a_question_moves_and_lets_go(twin, connect):
    robot = connect()
    assert robot.is_calibrated
    seen = move(robot, "shoulder_pan", 30.0, seconds=20)
    state = twin.ask("state")["joints"]
    assert abs(seen["shoulder_pan.pos"] - 30) < 0.3
    assert abs(state["shoulder_pan"]["position_rad"] - 0.5236) < 0.02  # LeRobot's 30 degrees are the model's
    assert abs(move(robot, "gripper", 80.0, seconds=20)["gripper.pos"] - 80) < 0.5
    assert torque(twin) == [True] * 6
    robot.disconnect()
    assert torque(twin) == [False] * 6


def test_an_overloaded_servo_is_read_but_cannot_be_let_go(twin, connect):
    robot = connect()
    twin.ask("overload", joint="elbow_flex")
    assert len(robot.get_observation()) == 6  # a sync read does not look at the error
    with pytest.raises(RuntimeError, match="Overload error"):
        robot.disconnect()
    # LeRobot stops at the first error: the joints behind it keep their torque
    assert torque(twin) == [False, False, False, True, True, True]


def test_a_pulled_usb_cable_is_an_input_error_and_the_arm_holds_its_goal(twin, connect, served):
    robot = connect()
    robot.send_action(robot.get_observation() | {"shoulder_pan.pos": 45.0})
    twin.ask("pull", cable="usb")
    assert not served.port_file.exists()
    with pytest.raises((termios.error, OSError)):
        robot.get_observation()
    end = time.monotonic() + START_S
    while abs(twin.ask("state")["joints"]["shoulder_pan"]["position_rad"] - 0.785) > 0.01:  # it goes on to its goal
        assert time.monotonic() < end
    assert torque(twin) == [True] * 6
    twin.ask("plug", cable="usb")
    again = connect().get_observation()["shoulder_pan.pos"]
    assert abs(again - 45) < 5  # LeRobot's configuration lets the arm go limp for as long as it takes


def test_without_power_the_arm_is_silent_and_limp_and_wakes_limp(twin, connect):
    robot = connect()
    twin.ask("pull", cable="power")
    with pytest.raises(ConnectionError, match="no status packet"):
        robot.get_observation()
    twin.ask("plug", cable="power")
    seen = robot.get_observation()
    robot.send_action(seen | {"shoulder_pan.pos": 45.0})
    time.sleep(0.3)
    assert torque(twin) == [False] * 6
    assert abs(robot.get_observation()["shoulder_pan.pos"] - seen["shoulder_pan.pos"]) < 5  # as it fell, no further


def test_a_wrong_request_is_answered_in_words_and_the_channel_stays(twin, served):
    for do, given, message in (
        ("kill", {"joint": ["elbow_flex"]}, "one of shoulder_pan"),
        ("state", {"of": "it"}, "state: got an unexpected keyword argument 'of'"),
        ("line", {"lost": 2}, "from 0 to 1"),
        ("reset", {"joints": {"": 0.1}}, ": no such joint; one of"),
    ):
        with pytest.raises(ValueError, match=message):
            twin.ask(do, **given)
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(served.control))
        other.sendall(b"[" * 3000 + b"\n")
        assert json.loads(other.recv(4096))["ok"] is False
    assert list(twin.ask("state")["joints"]) == list(JOINTS)


def test_a_fault_asked_for_by_key_comes_after_the_first_goal_and_goes(start_twin, connect, tmp_path):
    twin = start_twin(tmp_path, "faults.dead=gripper", "faults.after_s=0.2", "faults.for_s=2")
    robot = connect(twin)
    time.sleep(0.5)
    with TwinControl(twin.control) as control:
        alive = [control.ask("state")["joints"]["gripper"]["powered"]]
        robot.send_action(robot.get_observation())
        end = time.monotonic() + START_S
        while alive[-2:] != [False, True] and time.monotonic() < end:
            now = control.ask("state")["joints"]["gripper"]["powered"]
            alive += [now] if alive[-1:] != [now] else []
    assert alive == [True, False, True]
    result = twin.stop(signal.SIGINT)
    assert result["faults"] == {"dead": 1} and result["packets"] > 100
    assert not twin.port_file.exists() and not twin.control.exists()
    entries = json.loads((tmp_path / "twin.json").read_text())
    assert list(entries) == list(JOINTS) and result["calibration_file"] == str(tmp_path / "twin.json")


def test_a_second_twin_is_refused_and_a_killed_one_replaced(start_twin, command, tmp_path):
    twin = start_twin(tmp_path)
    code, _, err = command("twin", f"port_file={twin.port_file}")
    assert code == 2 and "another twin listens" in err.splitlines()[-1]
    assert twin.process.poll() is None and twin.port_file.exists()
    twin.process.kill()
    twin.process.communicate()
    with pytest.raises(ValueError, match=rf"^port_file={twin.port_file}: its twin is gone; start `semagram"):
        port_of_twin(twin.port_file)
    again = start_twin(tmp_path)
    assert port_of_twin(twin.port_file) == again.port()
    assert again.stop()["packets"] == 0


def test_two_programs_do_not_move_one_arm(served):
    from robot.arms import twin as driver

    first, second = driver(served.port_file), driver(served.port_file)
    first.connect()
    with pytest.raises(ConnectionError, match="another program moves the arm"):
        second.connect()
    for _ in range(20):
        first.get_observation()  # not disturbed
    first.disconnect()
    second.connect()
    second.get_observation()
    second.disconnect()


def test_it_starts_beside_packages_of_the_same_names_survives_a_wobbling_cable_and_goes_with_its_folder(hidden):
    stop = threading.Event()

    def talk():
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the port is not there just now
                port = os.open(port_file.read_text().strip(), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                with contextlib.suppress(OSError):
                    while not stop.is_set():
                        os.write(port, encode(1, PING))
                os.close(port)

    with served() as port_file:  # which raises where it does not come up
        host = threading.Thread(target=talk)
        host.start()
        with TwinControl(control_of(port_file)) as control:
            for _ in range(50):
                control.ask("pull", cable="usb")
                control.ask("plug", cable="usb")
            stop.set()
            host.join()
            assert control.ask("state")["port"] == port_of_twin(port_file)
    assert not port_file.parent.exists()
