"""Whatever ends a run or a recording: the arm rests, its torque is as docs/robot.md says, one line, an exit code."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

import configs.arm.recording
import configs.arm.running
from configs import commands
from robot.recording import Draft
from robot.safety.stops import SIGNALS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient_driver", "patient_gate")]
WAIT_S = 120.0  # a loaded machine
ON, OFF = [True] * 6, [False] * 6


@pytest.fixture
def running(arm_checkpoint, serving):
    """The keys of a run that does not end by itself."""
    return (f"checkpoint={arm_checkpoint}", f"remote={serving(arm_checkpoint)}", "viewer=none", "seconds=60")


@pytest.fixture
def robots(monkeypatch):
    """The robots that the commands have put behind the gate, the newest last."""
    made = []
    for module in (configs.arm.recording, configs.arm.running):

        def gated(*given, inner=module.gated, **keys):
            made.append(inner(*given, **keys))
            return made[-1]

        monkeypatch.setattr(module, "gated", gated)
    return made


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path, robots):
    """Runs a command; once the arm moves, or `begun()`, `act()`. Its exit code and its one line about it on stderr.

    In the end the arm is at rest and the robot shut down.
    """

    def moving() -> bool:
        command = robots[-1].command if robots else None
        return command is not None and abs(command.rate).max() > 5  # degrees a second

    def ends(main, act, *words, begun=moving) -> tuple[int, str]:
        over, failed = threading.Event(), []

        def watch():
            end = time.monotonic() + WAIT_S
            while not over.is_set() and not begun():
                if time.monotonic() > end:
                    failed.append("it did not begin")
                    return
                time.sleep(0.01)
            act()

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["semagram", *map(str, words)])
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            over.set()
            watcher.join()
        assert not failed
        command = robots[-1].command  # None: between two episodes
        assert (command is None or command.resting) and not robots[-1].is_connected
        lines = capsys.readouterr().err.splitlines()
        ending = [line for line in lines if re.search("stopped|gone|cannot|driver: |stalled: ", line)]
        assert len(ending) == 1, lines
        return end.value.code, ending[0]

    return ends


def signalled(number):
    return lambda: os.kill(os.getpid(), number)


def torque(twin) -> list[bool]:
    """Each joint's, once the arm is at rest."""
    end = time.monotonic() + WAIT_S
    while any(abs(joint["velocity_rad_s"]) > 0.01 for joint in twin.ask("state")["joints"].values()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [joint["torque_on"] for joint in twin.ask("state")["joints"].values()]


def on_the_twin(served, *words) -> tuple[str, ...]:
    return ("robot=so101-twin", f"port_file={served.port_file}", *words)


SILENT = r"stopped: driver: the robot (cannot be read|takes no command): .*"
TWIN = {  # a fault: what is asked of the twin, the line, the joints' torque in the end
    "every packet lost": (("line", {"lost": 1.0}), SILENT + "no status packet.*not done: .*release gripper", ON),
    "every packet spoilt": (("line", {"corrupted": 1.0}), SILENT + "status packet.*not done: .*release gripper", ON),
    "replies too late": (("line", {"slow_ms": 10_000.0}), SILENT + "no status packet.*not done: .*release", OFF),
    "a dead servo": (("kill", {"joint": "elbow_flex"}), SILENT + "no status packet.*not done: release elbow_flex", OFF),
    "the USB cable": (("pull", {"cable": "usb"}), SILENT + "not done: brake, .*release gripper", ON),
    "the power": (("pull", {"cable": "power"}), SILENT + "no status packet.*not done: release shoulder_pan", OFF),
    "a servo's lead": (("pull", {"cable": "wrist_flex"}), SILENT + "not done: release wrist_flex, .*gripper", OFF),
}


@pytest.mark.parametrize("fault", TWIN)
def test_a_fault_of_the_twin_ends_a_run(twin, served, running, ends, fault):
    (do, arguments), said, left = TWIN[fault]
    code, line = ends(commands.run, lambda: twin.ask(do, **arguments), *running, *on_the_twin(served))
    assert code == 1
    assert re.match(said, line), line
    assert torque(twin) == left


UNNOTICED = {"overload": ["elbow_flex is released, but its servo was in trouble: Overload error!"], "hold": []}
"""LeRobot reads on without a word; the warnings when the servos are let go."""


@pytest.mark.parametrize("fault", UNNOTICED)
def test_a_servo_that_gives_up_is_let_go_all_the_same(twin, served, running, ends, recwarn, fault):
    def act():
        twin.ask(fault, joint="elbow_flex")
        os.kill(os.getpid(), signal.SIGINT)

    warnings.simplefilter("always")
    code, line = ends(commands.run, act, *running, *on_the_twin(served))
    assert (code, line) == (130, "stopped by SIGINT")
    assert [str(warning.message) for warning in recwarn] == UNNOTICED[fault]
    assert torque(twin) == OFF


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run(running, ends, number):
    """On the twin: the tests above."""
    assert ends(commands.run, signalled(number), *running) == (128 + number, f"stopped by {number.name}")


def test_a_planner_that_is_killed_ends_a_run(arm_checkpoint, ends, monkeypatch):
    made, inner = [], subprocess.Popen

    def popen(*given, **keys):
        made.append(inner(*given, **keys))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    words = (f"checkpoint={arm_checkpoint}", "viewer=none", "seconds=60")
    code, line = ends(commands.run, lambda: os.kill(made[0].pid, signal.SIGKILL), *words)
    assert code == 1
    assert line.startswith("stopped: planner: the planner is gone: ")  # hung up, or reset


@pytest.fixture
def person(monkeypatch, arms):
    """Who drives the recordings, to and fro."""
    leader = arms.Leader(lambda step: [40 * math.sin(step / 10), 0, 0, 0, 0, 0])
    monkeypatch.setattr(configs.arm.recording, "teleoperator", lambda keys: leader)
    return leader


RECORD = ("dataset=kept", "driver=teleop", "teleop.type=wave", "instruction=Wave.", "episodes=2", "seconds=60")
NONE_SAFE = "; 0 episodes are safe, the same command goes on"


def test_a_joint_held_by_hand_ends_a_recording(twin, served, ends, person, tmp_path):
    held = lambda: twin.ask("hold", joint="shoulder_pan")  # noqa: E731
    code, line = ends(commands.record, held, *RECORD, *on_the_twin(served))
    assert code == 1
    assert re.match(r"semagram: .*stalled: shoulder_pan does not follow: it stays at .*" + NONE_SAFE, line), line
    assert torque(twin) == OFF
    assert not person.is_connected and not list(tmp_path.iterdir())


def test_a_fault_of_the_twin_ends_a_recording(twin, served, ends, person, tmp_path):
    (do, arguments), said, left = TWIN["a dead servo"]
    code, line = ends(commands.record, lambda: twin.ask(do, **arguments), *RECORD, *on_the_twin(served))
    assert code == 1
    assert re.match(said.replace("stopped", "semagram") + ".*" + NONE_SAFE, line), line
    assert torque(twin) == left
    assert not person.is_connected and not list(tmp_path.iterdir())


@pytest.mark.parametrize("full", [False, True])
def test_what_could_not_be_done_at_the_end_of_a_recording_is_told(ends, person, monkeypatch, full):
    def fail(*_):
        raise OSError("the disk cannot be written")

    monkeypatch.setattr(person, "disconnect", fail)
    act = (lambda: monkeypatch.setattr(Draft, "add", fail)) if full else signalled(signal.SIGINT)
    code, line = ends(commands.record, act, *RECORD)
    if full:
        assert (code, line) == (2, "semagram: the disk cannot be written; not done: close the data")
    else:
        assert (code, line) == (130, "semagram: stopped by SIGINT; not done: close the data" + NONE_SAFE)


def test_a_leader_that_is_lost_ends_a_recording(ends, person, tmp_path):
    code, line = ends(commands.record, lambda: setattr(person, "lost", True), *RECORD)
    assert code == 1
    assert line == "semagram: the teleoperator cannot be read: [Errno 5] Input/output error" + NONE_SAFE
    assert not person.is_connected and not list(tmp_path.iterdir())


def test_a_signal_while_an_episode_is_saved_does_not_lose_it(ends, person, tmp_path, monkeypatch):
    save, begun = Draft.save, threading.Event()

    def slow(draft, info):
        begun.set()
        end = time.monotonic() + WAIT_S
        while not draft.signalled:
            assert time.monotonic() < end
            time.sleep(0.01)
        save(draft, info)

    def act():
        os.kill(os.getpid(), signal.SIGTERM)
        Draft.signalled = True

    monkeypatch.setattr(Draft, "signalled", False, raising=False)
    monkeypatch.setattr(Draft, "save", slow)
    words = [word for word in RECORD if "seconds" not in word]
    code, line = ends(commands.record, act, *words, "seconds=0.3", "episodes=1000", begun=begun.is_set)
    assert (code, line) == (143, "semagram: stopped by SIGTERM; 1 episodes are safe, the same command goes on")
    info = json.loads((tmp_path / "kept" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 1
