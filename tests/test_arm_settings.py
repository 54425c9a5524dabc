"""A mistake in a setting of anything about an arm is one line that begins with the key.

Those that a single key shows are generated in test_commands.py.
"""

from types import SimpleNamespace

import pytest

from robot.arms import configured, driven
from robot.config_so101 import SemagramSO101Config, SO101SimConfig
from robot.safety.limits import Box, JointLimits, Limits, so101
from robot.settings import PlayConfig, RecordConfig, RunConfig, planner_address
from sim.so101.joints import JOINTS
from sim.twin.faults import FaultConfig
from sim.twin.twin import TwinConfig

REAL, TWIN = {"robot": "so101", "port": "p", "id": "i"}, {"robot": "so101-twin"}
POLICY = {"driver": "policy", "checkpoint": "c"}
FULL = {name: SimpleNamespace(range_min=700, range_max=3400) for name in JOINTS}
POINT = FULL | {"elbow_flex": SimpleNamespace(range_min=2000, range_max=2227)}
ELSEWHERE = ("", "0.0.0.0:7766", "localhost:7766")


def run(**keys):
    return RunConfig(**{"checkpoint": "c"} | keys)


def record(**keys):
    return RecordConfig(**{"dataset": "d"} | keys)


def joint(**keys):
    return JointLimits(**{"low": -1.0, "high": 1.0, "rate": 1.0, "acceleration": 1.0, "step": 1.0} | keys)


def camera(keys):
    return configured({"a": keys})


def arm(**keys):
    return SemagramSO101Config(port="p", id="i", **keys)


WRONG = [  # what is made, of what, how the line begins
    (run, {"checkpoint": ""}, "checkpoint=: a run folder"),
    (run, {"robot": "so101", "target": [0.2, 0.0, 0.0]}, "port= and id="),
    (run, {"robot_cameras": {"wrist": {}}}, "robot_cameras=: not with robot=so101-sim"),
    (run, TWIN | {"target": [0.2, 1.1, 0.0]}, "target="),
    (run, {"target": [0.2, 0.0, 0.0]}, "target=: only with robot=so101 or so101-twin"),
    (run, {"limits": "brave"}, "limits=brave: one of careful, normal, trained"),
    (run, {"remote": "there:1"}, "remote=there:1: a Unix socket; ssh -L"),
    (run, {"remote": "here", "device": "cuda"}, "device=cuda: not with remote="),
    (run, {"remote": "here", "ladder": True}, "ladder=true: not with remote="),
    (run, {"ask": True}, r"ask=true: with guidance=\[a,b,\.\.\.\], of which one is meant"),
    (run, {"tools": ("knock",)}, r"tools=\[knock\]: only with ladder=true"),
    (run, {"planner": False, "calibrate": 100}, "calibrate=100: only with planner=true"),
    (run, {"ladder": True, "calibrate": 100}, "calibrate=100: without ladder=true"),
    (run, {"viewer_port": 80}, "viewer_port=80: it is for viewer=web"),
    (record, {"sim_task": "tuch"}, "sim_task=tuch: one of touch, look-at, "),
    (record, {"sim_task": "look-at"}, "sim_task=look-at: scripts exist for touch, pick-lift; driver=policy or"),
    (record, {"driver": "teleop"}, r"teleop\.type=: any of LeRobot's teleoperators"),
    (record, {"teleop": {"type": "so101_leader"}}, r"teleop\.type=so101_leader: only with driver=teleop or "),
    (record, {"takeover": "leader"}, r"takeover=leader: one of teleop, script"),
    (record, {"takeover": "script"}, r"takeover=script: only with driver=policy"),
    (record, POLICY | TWIN | {"takeover": "script", "instruction": "x"}, r"takeover=script: only with robot=so101-sim"),
    (record, {"trace": True}, "trace=true: only with driver=policy robot=so101-sim; semagram-run has it of every"),
    (record, POLICY | {"give_back_s": 2.0}, r"give_back_s=2\.0: only with takeover=teleop"),
    (record, POLICY | {"target": [0.2, 0.0, 0.0]}, r"target=\[0\.2, 0\.0, 0\.0\]: only with driver=policy, on an arm"),
    (record, {"cameras": ["under"]}, r"cameras=\[under\]: with robot=so101-sim, any of main, front, side"),
    (record, {"cameras": ["wrist"], "camera": {"width": 31}}, "camera.width=31: .* from 32 to 4096"),
    (record, {"seconds": 0.01}, "seconds=0.01: two steps at least, 0.0667 s"),
    (record, REAL | {"instruction": "s"}, "driver=expert: only with robot=so101-sim"),
    (record, REAL | {"sim_task": ""}, "instruction=: what is done, in words"),
    (PlayConfig, {}, "plan=: a JSON file"),
    *((planner_address, {"text": text, "key": "remote"}, f"remote={text}: .*ssh -L") for text in ELSEWHERE),
    (TwinConfig, {}, "port_file=: a file to write the port's name to"),
    (FaultConfig, {"cable": "hdmi"}, "faults.cable=hdmi: one of usb, power, shoulder_pan"),
    (SO101SimConfig, {"task": "tuch"}, r"robot\.task=tuch: one of so101-touch, "),
    (camera, {"keys": {"type": "opncv"}}, "robot_cameras.a.type=opncv: one of intelrealsense, opencv, "),
    (camera, {"keys": {"type": "opencv", "index_or_path": 0, "withd": 3}}, "robot_cameras.a: "),
    (arm, {"joints": {"knee": {"rate": 1.0}}}, "robot.joints.knee"),
    (arm, {"joints": {"gripper": {"speed": 1.0}}}, "robot.gripper: .*speed"),
    (arm, {"box": {"z_low": 2.0}}, "box.z_low=2.0"),
    (so101, {"calibration": {"gripper": FULL["gripper"]}}, "calibration: no joint 'shoulder_pan', only gripper"),
    (so101, {"calibration": POINT}, "calibration: elbow_flex from 2000 to 2227: no range"),  # 228 are 20 degrees
    (joint, {"high": float("nan")}, "high=nan: from "),
]


@pytest.mark.parametrize(("make", "keys", "line"), WRONG)
def test_a_mistake_is_one_line_that_names_the_key(make, keys, line):
    with pytest.raises(ValueError, match=f"^{line}") as refused:
        make(**keys)
    assert "\n" not in str(refused.value)


BOUNDS = [  # what is made, of what: the last value that may be, the first that may not
    (joint, {}, "rate", 10.0, 10.001, "at most 10 s of acceleration, 1.0"),
    (joint, {}, "low", 0.999, 1.0, "below high, 1.0"),
    (Box, {}, "z_low", 0.999, 1.0, "below box.z_high, 1.0"),
    (Limits, {"joints": {"j": joint()}}, "loop_s", 60.0, 60.5, "above 0"),
]


@pytest.mark.parametrize(("make", "keys", "key", "last", "beyond", "why"), BOUNDS)
def test_a_limit_may_be_at_its_bound_and_not_beyond(make, keys, key, last, beyond, why):
    assert getattr(make(**keys | {key: last}), key) == last
    with pytest.raises(ValueError, match=rf"{key}={beyond}: .*{why}"):
        make(**keys | {key: beyond})


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"gripper": {"id": "x"}}'])
def test_an_arm_without_a_calibration_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "arm.json").write_text(text)
    with pytest.raises(ValueError, match=r"^id=arm: ") as refused:
        driven("no port", "arm", str(tmp_path))
    assert "\n" not in str(refused.value)


def test_only_a_real_arm_is_careful_by_default():
    presets = [made.preset for made in (run(), run(**TWIN), run(**REAL), record(), run(**REAL, limits="normal"))]
    assert presets == ["trained", "trained", "careful", "normal", "normal"]


def test_a_planners_address_is_a_socket():
    assert planner_address("~/a.sock", "remote").endswith("/a.sock") and "~" not in planner_address("~/a", "remote")
