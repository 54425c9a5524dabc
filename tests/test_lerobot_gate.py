"""LeRobot's own commands with `--robot.type=semagram_so101`: whatever they are fed, the wire carries only what the gate
allows, and they end as docs/gate.md says. Its times are wide here, since test machines are busy."""

import contextlib
import importlib
import json
import math
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch

from robot.config_so101 import SemagramSO101Config
from robot.modeling_semagram import SemagramPolicy
from robot.safety.gated import GatedRobot
from robot.safety.limits import so101
from robot.safety.stops import RobotFault, Stopped
from robot.so101 import SemagramSO101
from sim.so101.joints import JOINTS
from sim.twin.servo import REGISTERS, SYNC_WRITE, WRITE, Framer

pytestmark = pytest.mark.usefixtures("patient_driver")
GOAL, TORQUE = REGISTERS["Goal_Position"][0], REGISTERS["Torque_Enable"][0]
KEYS = tuple(f"{joint}.pos" for joint in JOINTS)
BEYOND = np.array([120.0, 105.0, 100.0, 100.0, 160.0, 101.0])
FED = 15  # goals beyond the limits, then so many far away, then what is no number


def hostile(t: int) -> np.ndarray:
    """The goal of step t: just beyond the limits, then far jumps, then not a number."""
    goal = BEYOND if t < FED else np.full(6, 1e6 if t // 5 % 2 else -1e6)
    return np.where((np.arange(6) == 2) & (t >= 2 * FED), math.nan, goal)


EVENTS, SILENT = ("exit_early", "rerecord_episode", "stop_recording"), "--play_sounds=false"


class Wire:
    """The goals that the driver writes to the serial port: `goals[joint]` is a list of (time, degrees).

    The first is what a servo held when its torque came on: where the arm was, as a goal to be there.
    """

    def __init__(self, calibration: dict):
        self._framer, self.goals = Framer(), {joint: [] for joint in JOINTS}
        self._joint = {entry["id"]: joint for joint, entry in calibration.items()}
        self._ranges = {joint: (entry["range_min"], entry["range_max"]) for joint, entry in calibration.items()}
        self._stiff = set()

    def carry(self, data) -> None:
        now = time.monotonic()
        for packet in self._framer.feed(bytes(data), 0.0):
            given = packet.parameters
            if packet.instruction == WRITE and given[0] == TORQUE and given[1]:
                joint = self._joint[packet.id]
                self._stiff.add(joint)
                self.goals[joint] = self.goals[joint] or [(now, math.nan)]
            if packet.instruction == WRITE and given[0] == GOAL:
                self._note(packet.id, given[1:3], now)
            if packet.instruction == SYNC_WRITE and given[0] == GOAL:
                for at in range(2, len(given), given[1] + 1):
                    self._note(given[at], given[at + 1 : at + 3], now)

    def _note(self, number: int, data: bytes, now: float) -> None:
        joint = self._joint[number]
        if joint not in self._stiff:
            self.goals[joint].clear()
        self.goals[joint].append((now, self._value(joint, int.from_bytes(data, "little"))))

    def _value(self, joint: str, counts: int) -> float:
        low, high = self._ranges[joint]
        return 100 * (counts - low) / (high - low) if joint == "gripper" else (counts - (low + high) / 2) * 360 / 4095

    def check(self, limits, jitter_s: float) -> None:
        """No goal is beyond the limits (but for where the arm, before it is held, began), nor faster than allowed.

        A goal reaches the wire up to `jitter_s` after the gate has made it.
        """
        for joint, goals in self.goals.items():
            (_, began), *sent = goals
            times, values = np.array(sent).T
            limit, count = limits.joints[joint], 0.2
            assert len(values) > FED
            settled = 0.5  # what an arm that is not held moves until then
            assert min(limit.low - count, began - settled) <= values.min()
            assert values.max() <= max(limit.high + count, began + settled)
            waits, moved = times[None] - times[:, None] + jitter_s, np.abs(values[None] - values[:, None])
            assert (moved <= limit.rate * waits + count)[np.triu_indices(len(times), 1)].all()


@pytest.fixture
def lerobot(monkeypatch, served, twin, arms):
    """Runs one of LeRobot's commands with the gated arm on the twin; returns what was on the wire."""
    from scservo_sdk import PortHandler

    calibration = json.loads((served.folder / "twin.json").read_text())
    wire, write = Wire(calibration), PortHandler.writePort

    def carried(handler, packet):
        wire.carry(packet)
        return write(handler, packet)

    monkeypatch.setattr(PortHandler, "writePort", carried)
    before = {number: signal.getsignal(number) for number in signal.Signals if number not in (9, 19)}

    def run(name, *words, robot=()):
        script = importlib.import_module(f"lerobot.scripts.lerobot_{name}")
        monkeypatch.setattr(script, "init_logging", lambda *_, **__: None)
        arm = ("type=semagram_so101", f"port={served.port()}", "id=twin", f"calibration_dir={served.folder}")
        times = [f"{name}_s=30" for name in ("loop", "goal_age", "observation_age")]
        keys = [f"--robot.{word}" for word in (*arm, *times, *robot)]
        monkeypatch.setattr(sys, "argv", [f"lerobot-{name}", *keys, *map(str, words)])
        script.main()

    run.wire, run.leader = wire, arms.Leader
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def teleoperate(lerobot, monkeypatch, goal, *_):
    script = importlib.import_module("lerobot.scripts.lerobot_teleoperate")
    monkeypatch.setattr(script, "make_teleoperator_from_config", lambda config: lerobot.leader(goal))
    lerobot("teleoperate", "--teleop.type=so101_leader", "--teleop.port=x", "--teleop_time_s=20")


def record(lerobot, monkeypatch, goal, folder, *_):
    script = importlib.import_module("lerobot.scripts.lerobot_record")
    monkeypatch.setattr(script, "make_teleoperator_from_config", lambda config: lerobot.leader(goal))
    monkeypatch.setattr(script, "init_keyboard_listener", lambda: (None, dict.fromkeys(EVENTS, False)))
    lerobot(
        *("record", "--teleop.type=so101_leader", "--teleop.port=x", "--play_sounds=false"),
        *("--dataset.repo_id=local/x", f"--dataset.root={folder / 'x'}", "--dataset.single_task=x"),
        *("--dataset.push_to_hub=false", "--dataset.num_episodes=1", "--dataset.episode_time_s=20"),
        *("--dataset.reset_time_s=0.3", "--dataset.no_stamp=true"),
    )


def replay(lerobot, monkeypatch, goal, folder, *_):
    from lerobot.datasets import LeRobotDataset

    feature = {"action": {"dtype": "float32", "shape": (6,), "names": list(KEYS)}}
    dataset = LeRobotDataset.create("local/x", 30, root=folder / "x", features=feature, use_videos=False)
    for t in range(4 * FED):
        dataset.add_frame({"action": goal(t).astype(np.float32), "task": "x"})
    with np.errstate(invalid="ignore"):
        dataset.save_episode()
    dataset.finalize()
    lerobot("replay", "--dataset.repo_id=local/x", f"--dataset.root={folder / 'x'}", "--dataset.episode=0", SILENT)


def rollout(lerobot, monkeypatch, goal, folder, checkpoint):
    steps = iter(range(10**6))
    act = lambda *_, **__: torch.tensor(goal(next(steps)), dtype=torch.float32)[None]  # noqa: E731
    monkeypatch.setattr(SemagramPolicy, "select_action", act)
    keys = ("--strategy.type=base", f"--policy.path={checkpoint}", "--device=cpu", "--duration=20", "--task=x", SILENT)
    lerobot("rollout", *keys)


@pytest.fixture(scope="module")
def checkpoint(untaught, tmp_path_factory):
    """One whose actions a test replaces."""
    return untaught(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("command", [teleoperate, record, replay, rollout])
def test_no_command_of_lerobots_sends_the_servos_what_the_gate_forbids(
    lerobot, monkeypatch, tmp_path, checkpoint, twin, command
):
    with pytest.raises(RobotFault, match="not-finite: the goal of elbow_flex is nan"):
        command(lerobot, monkeypatch, hostile, tmp_path, checkpoint)
    lerobot.wire.check(so101("careful"), jitter_s=0.2)
    assert [joint["torque_on"] for joint in twin.ask("state")["joints"].values()] == [False] * 6


@pytest.mark.parametrize(
    ("command", "event"),
    [*((one, "SIGINT") for one in (teleoperate, record, replay, rollout)), (record, "a dead servo")],
)
def test_whatever_ends_a_command_of_lerobots_the_arm_is_let_go(
    lerobot, monkeypatch, tmp_path, checkpoint, twin, command, event
):
    """LeRobot itself takes a signal for the end of teleoperate and rollout, which then takes the arm back slowly."""
    happened = []

    def goal(t):
        if t == 20 and not happened and (command is not replay or sent):
            happened.append(t)
            if event == "a dead servo":
                twin.ask("kill", joint="elbow_flex")
            else:
                os.kill(os.getpid(), signal.Signals[event])
        return np.full(6, 10.0)

    sent = []  # what a data set holds is asked for before anything is sent
    if command is replay:
        send = GatedRobot.send_action

        def noting(robot, action, at=None):
            sent.append(action)
            goal(len(sent))
            return send(robot, action, at)

        monkeypatch.setattr(GatedRobot, "send_action", noting)
    ended = contextlib.nullcontext()
    if event == "a dead servo":
        ended = pytest.raises(RobotFault, match=r"driver: the robot cannot be read: .*no status packet")
    elif command in (record, replay):
        ended = pytest.raises(Stopped, match=f"stopped by {event}")
    with ended as error:
        command(lerobot, monkeypatch, goal, tmp_path, checkpoint)
    assert happened
    assert event != "a dead servo" or "while trying to release elbow_flex" in str(error.value.__notes__)
    lerobot.wire.check(so101("careful"), jitter_s=0.2)
    assert [joint["torque_on"] for joint in twin.ask("state")["joints"].values()] == [False] * 6


def test_after_a_pause_that_nobody_announced_the_arm_goes_on_from_rest_where_it_is(arms, tmp_path, monkeypatch, caplog):
    """As LeRobot pauses to save an episode, or to compute an action; the arm may be moved by hand meanwhile."""
    arm, goals = arms.WiredArm(tmp_path, monkeypatch.setattr), dict.fromkeys(KEYS, 0.0) | {"shoulder_pan.pos": 30.0}
    robot = SemagramSO101(SemagramSO101Config(port="wire", id="arm", calibration_dir=tmp_path), arm.clock)
    with robot:
        for pause_s, between in ((1.0, False), (1.0, True), (60.0, True)):
            for _ in range(20):
                robot.get_observation()
                robot.send_action(goals)
                arm.clock.sleep(1 / 30)
            assert robot.command.rate[0] > 5
            if between:  # the observation and the action
                robot.get_observation()
            arm.chain.move(1, -10)
            arm.clock.sleep(pause_s)
            sent = robot.send_action(goals)
            assert robot.fault is None and not robot.command.rate.any()
            assert abs(sent["shoulder_pan.pos"] + 10) < 0.1
    assert caplog.text.count("goes on from rest") == 3


def test_limits_of_its_own_are_the_gates():
    config = SemagramSO101Config(port="x", limits="normal", joints={"gripper": {"step": 7.0}}, box={"z_low": 0.05})
    limits, normal = config.limits_of(None), so101("normal")
    assert (limits.joints["gripper"].step, limits.box.z_low) == (7.0, 0.05)
    assert {**limits.joints, "gripper": None} == {**normal.joints, "gripper": None}
