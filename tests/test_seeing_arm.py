"""An arm with cameras and instructions shows the model what training showed; a cable falls out, and it goes on."""

import contextlib
import re
import threading
import time
from dataclasses import replace
from functools import partialmethod

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from configs.arm.planning import begin_of, planner_service
from configs.arm.recording import RecordSession
from configs.arm.running import RunSession
from configs.runs.loading import load_agent
from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.planner_link.messages import Question, Refusal, Refused
from policies.settings import GuidanceKeys
from policies.text_encoder import WORDS
from policies.training.episodes import observe
from robot import views
from robot.arms import simulated
from robot.cameras import BLIND_S, CameraBuffer, SteadyCamera
from robot.config_so101 import SimCameraConfig
from robot.loop import Loop
from robot.settings import RecordConfig, RunConfig
from robot.so101 import SimCamera
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.senses import IMAGE_KEY_PREFIX
from worldmodel.strict import ConfigError

TASK = TaskConfig("so101-touch", state="joints")
WRIST = "wrist:24x40"
SENSES = ("state", "images.overhead", "language", f"images.{WRIST}")
SIZE, WAIT_S, HZ = 32, 60.0, 30.0
LIT, DARK = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, untaught):
    """An agent with two cameras of different sizes, instructions and the joints' state."""
    return untaught(tmp_path_factory.mktemp("run"), TASK, senses=SENSES, image_size=SIZE)


@pytest.fixture
def running(checkpoint, serving):
    """Makes runs of the checkpoint, or of another one."""

    def begin(path=checkpoint, **keys):
        return RunSession.begin(RunConfig(checkpoint=str(path), remote=serving(path), **{"viewer": "none"} | keys))

    return begin


def until(true) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_simulated_arm_shows_what_training_showed():
    senses = Senses(("images.overhead", f"images.{WRIST}"), SIZE)
    env, names = make(TASK, senses=senses), senses.cameras
    sizes = senses.sizes.items()
    config = {name: SimCameraConfig(view=name, height=high, width=wide, fps=30) for name, (high, wide) in sizes}
    robot = simulated("so101-touch", HZ, cameras=config)
    robot.connect()
    cameras = CameraBuffer(senses.sizes, (0, 2), hz=HZ)
    shown, _ = env.reset(seed=5)
    robot.reset(5)
    before = []
    for step in range(4):
        before.append(shown)
        cameras.see(robot.get_observation())
        frames, there = cameras.now()
        assert there.all()
        for stack, name in zip(frames, names, strict=True):
            np.testing.assert_array_equal(stack[0], shown[f"observation.images.{name}"])
            np.testing.assert_array_equal(stack[1], before[max(0, step - 2)][f"observation.images.{name}"])
        shown, *_ = env.step(np.full(6, 0.5 * (step % 2), np.float32))
        targets = robot.units.from_rad(env.unwrapped.commanded)
        robot.send_action(dict(zip(robot.action_features, targets.tolist(), strict=True)))
    robot.disconnect()
    env.close()


moments = st.tuples(st.booleans(), st.integers(1, 3))


@given(st.lists(moments, min_size=1, max_size=12), st.sampled_from([(0,), (0, 2), (1, 3)]))
def test_cameras_give_the_frames_of_before_and_which_of_them_is_dark(taken, lags):
    """Some frames come several control steps after the last one: until then that one was the newest."""
    cameras, shown, lit = CameraBuffer({"a": LIT.shape[:2]}, lags, hz=HZ, say=[].append), [], [True]
    for number, (light, steps) in enumerate(taken):
        shown = [] if not lit[-1] else shown  # before a frame that shows something again there is nothing
        shown += shown[-1:] * (steps - 1) + [np.roll(LIT, number, 0) if light else DARK]
        lit.append(light)
        cameras.see({"a": shown[-1], "joint.pos": 0.0}, steps)
    frames, there = cameras.now()
    assert there.tolist() == [lit[-1]]
    for frame, lag in zip(frames[0], lags, strict=True):
        np.testing.assert_array_equal(frame, shown[max(0, len(shown) - 1 - lag)])
    cameras.forget()
    cameras.see({"a": LIT})
    assert all(np.array_equal(frame, LIT) for frame in cameras.now()[0][0])


@pytest.mark.parametrize("alone", [True, False])
def test_a_dark_camera_is_reported_once_and_only_an_arm_without_another_sense_is_blind(alone):
    said, second = [], round(BLIND_S * HZ)
    cameras = CameraBuffer({"a": (SIZE, SIZE), "b": (16, 24)}, hz=HZ, alone=alone, say=said.append)
    for frames in [(LIT, LIT)] + [(DARK, LIT)] * 60 + [(LIT, DARK)] * 2:
        cameras.see(dict(zip("ab", frames, strict=True)))
        assert not cameras.blind
    kept = ["camera a: frames of one colour", "camera a: shows something again"]
    assert [line.partition(";")[0] for line in said] == kept
    for _ in range(second):
        cameras.see({"a": DARK, "b": DARK})
        assert not cameras.blind
    cameras.see({"a": DARK, "b": DARK})
    assert cameras.blind == alone and not CameraBuffer().blind


@pytest.mark.parametrize(("shape", "size"), [((48, 64), (16, 16)), ((33, 33), (20, 16)), ((480, 640), (16, 64))])
def test_a_real_cameras_frame_is_its_largest_middle_part_of_the_models_proportions(shape, size):
    scale = min(whole / side for whole, side in zip(shape, size, strict=True))
    down, right = (round(scale * side) for side in size)
    top, left = (shape[0] - down) // 2, (shape[1] - right) // 2
    frame = np.zeros((*shape, 3), np.uint8)
    frame[top : top + down, left : left + right] = 200
    cameras = CameraBuffer({"a": size}, hz=HZ)
    cameras.see({"a": frame})
    assert cameras.newest["a"].shape == (*size, 3) and (cameras.newest["a"] == 200).all()
    frame[top, :] = frame[:, left + right - 1] = 0  # which are still in it
    cameras.see({"a": frame})
    assert (cameras.newest["a"][0] < 200).all() and (cameras.newest["a"][:, -1] < 200).all()


SETTINGS = {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 30.0}


class Cable:
    """A camera's driver: frames as long as the cable is in."""

    plugged, tries = True, 0

    def __init__(self, *_):
        self.found = Cable.plugged
        Cable.tries += not Cable.plugged

    def isOpened(self):
        return self.found

    def read(self):
        time.sleep(0.01)
        return (True, np.full((48, 64, 3), 180, np.uint8)) if Cable.plugged else (False, None)

    def get(self, setting):
        return SETTINGS.get(setting, 0.0)

    def set(self, setting, value):
        return SETTINGS.get(setting) == value

    def release(self):
        self.found = False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # LeRobot's reading thread gives up
def test_a_cable_that_falls_out_is_black_frames_until_it_is_in_again(monkeypatch):
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

    monkeypatch.setattr(cv2, "VideoCapture", Cable)
    monkeypatch.setattr("robot.cameras.AGAIN_S", 0.05)
    said = []
    camera = SteadyCamera("front", OpenCVCamera(OpenCVCameraConfig(index_or_path=0, warmup_s=1)), said.append)
    with monkeypatch.context() as out, pytest.raises(ConnectionError):
        out.setattr(Cable, "plugged", False)  # one that is not there at first is an error
        camera.connect()
    assert not camera.is_connected
    camera.connect()
    assert camera.read_latest().mean() == 180
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    assert camera.read_latest().shape == (48, 64, 3) and camera.is_connected
    until(lambda: Cable.tries >= 3)  # it fails to connect again
    assert len(said) == 1 and re.fullmatch(r"camera front: OpenCVCamera\(0\) .*; connecting again", said[0])
    monkeypatch.setattr(Cable, "plugged", True)
    until(lambda: camera.read_latest().any())
    assert said[1:] == ["camera front: connected again"]
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    camera.disconnect()  # while it is being looked for
    assert not camera.is_connected


def test_a_plan_is_due_when_the_robot_it_is_for_says(checkpoint, monkeypatch):
    """One robot's deadline is not the next's; one that says none gets the planner's own."""
    answering, loaded = planner_service(checkpoint, 3, "cpu", 1, True, GuidanceKeys()), load_agent(checkpoint, 3)
    begin = begin_of(loaded.spec, loaded.task, 2, "Touch the red cube.")
    plan, deadlines = answering.agent.planner.plan, []

    def noting(observation, memory, generator, deadline, *others, **keys):
        deadlines.append(deadline)
        return plan(observation, memory, generator, deadline, *others, **keys)

    monkeypatch.setattr(answering.agent.planner, "plan", noting)
    for due_ms in (5.0, 0.0):
        answering.begin(replace(begin, deadline_ms=due_ms))
        asked = time.perf_counter()
        answering.answer(answering.blank())
        if due_ms:
            assert asked + 0.005 <= deadlines[-1] <= time.perf_counter() + 0.005
    assert deadlines[-1] is None


@pytest.mark.parametrize("planned", [True, False])
def test_a_planners_process_decides_as_the_agent_does_from_the_same_senses(checkpoint, planned):
    answering, loaded = (
        planner_service(checkpoint, 3, "cpu", 1, planned, GuidanceKeys()),
        load_agent(checkpoint, 3, planned=planned),
    )
    agent, cameras = loaded.agent, ("overhead", "wrist")
    begin = replace(begin_of(loaded.spec, loaded.task, 2, "Touch the red cube."), deadline_ms=0.0)
    answering.begin(begin)
    lags, rng = agent.model.config.vision.frame_lags, np.random.default_rng(0)
    state = rng.normal(size=loaded.spec.state_size).astype(np.float32)
    for there in ((True, True), (False, True), (True, False)):
        older = [  # what was seen so many steps ago
            {name: rng.integers(0, 255, loaded.spec.senses[f"{IMAGE_KEY_PREFIX}{name}"], np.uint8) for name in cameras}
            for _ in range(max(lags) + 1)
        ]
        frames = tuple(np.stack([older[lag][name] for lag in lags]) for name in cameras)
        answering.agent.generator.manual_seed(7)
        answer = answering.answer(Question(1, True, state, frames, np.array(there)))
        agent.generator.manual_seed(7)
        agent.forget()
        for shots in reversed(older):
            values = {"observation.state": torch.from_numpy(state)[None]}
            values |= {f"{IMAGE_KEY_PREFIX}{name}": torch.from_numpy(shot)[None] for name, shot in shots.items()}
            values |= {"observation.language": WORDS.encode(["touch the red cube"])}
            masks = {f"{IMAGE_KEY_PREFIX}{name}": torch.tensor([now]) for name, now in zip(cameras, there, strict=True)}
            stacked = agent.frames.see(Observation.of(agent.model.senses, values, masks))
        np.testing.assert_array_equal(answer.actions, agent.decide(stacked).actions[0].numpy()[: begin.every])
    refusal = answering.answer(Question(1, True, state))
    assert isinstance(refusal, Refusal) and "(2, 32, 32, 3), (2, 24, 40, 3)" in refusal.reason
    for wrong in ({"sentence": ""}, {"cameras": "overhead:32x32,wrist:40x24"}):
        with pytest.raises(Refused, match=r"language|cameras is "):
            answering.begin(replace(begin, **wrong))


def test_it_runs_on_the_simulated_arm_by_its_cameras_and_its_instruction(running):
    result = running(episodes=1, seconds=1.0, instruction="reach for the red cube").run()
    assert (result["ended"], result["faults"], result["episodes"]) == ("done", [], 1)
    assert result["plans"] >= 2 and 0 <= result["success_rate"] <= 1


def test_an_arm_that_can_see_nothing_and_knows_nothing_else_stops(tmp_path, capsys, untaught, monkeypatch, running):
    monkeypatch.setattr(Loop, "recover", partialmethod(Loop.recover, patience_s=0.2))
    blind = untaught(tmp_path, TASK, senses=("images.overhead",), image_size=SIZE)
    monkeypatch.setattr(SimCamera, "read_latest", lambda camera, max_age_ms=500: DARK)
    result = running(blind, episodes=2, seconds=6.0).run()
    assert result["ended"] == "fault"
    assert result["faults"][0].startswith("blind: nothing to be seen through overhead")
    assert "camera overhead: frames of one colour" in capsys.readouterr().err


def test_a_policy_with_cameras_can_be_recorded_and_begins_as_in_training(checkpoint, tmp_path, monkeypatch):
    keys = {"driver": "policy", "checkpoint": str(checkpoint), "episodes": 1, "seconds": 0.5, "limits": "trained"}
    acted, act = [], Agent.act
    monkeypatch.setattr(Agent, "act", lambda agent, seen: acted.append((seen, act(agent, seen))) or acted[-1][1])
    result = RecordSession(RecordConfig(dataset=str(tmp_path / "d"), **keys)).run()
    assert result["frames"] == len(acted) == 15
    loaded = load_agent(checkpoint)
    agent = loaded.agent
    env = make_vector(loaded.task, 1, processes=False, senses=Senses.of(loaded.spec.senses))
    (rows,) = (tmp_path / "d" / "meta" / "episodes").glob("*/*.parquet")
    (seed,) = parquet.read_table(rows).to_pydict()["seed"]
    agent.generator.manual_seed(seed)
    observation, _ = env.reset(seed=[seed])
    shown, (seen, action) = observe(observation, agent.model.senses), acted[0]
    assert all(torch.equal(seen.values[key], shown.values[key]) for key in shown.values)
    assert torch.equal(seen.presence, shown.presence)
    assert torch.equal(act(agent, shown), action)
    env.close()


def test_the_rerun_viewer_gets_every_tick_with_what_the_camera_shows_the_model(running, tmp_path, monkeypatch):
    from rerun.experimental import RrdReader

    steps, log = [], views.RerunView.__call__

    def noting(view, step, follower):
        steps.append((step.reading.values.tolist(), follower.cameras.newest["overhead"]))
        log(view, step, follower)

    monkeypatch.setattr(views.RerunView, "__call__", noting)
    file = tmp_path / "run.rrd"
    running(episodes=1, seconds=0.5, viewer="rerun", viewer_file=str(file)).run()
    frames, measured = [], []
    for chunk in RrdReader(file).store().stream():
        columns = {} if chunk.is_static else chunk.to_record_batch().to_pydict()
        frames += columns.get("Image:buffer", []) if chunk.entity_path == "/camera/overhead" else []
        measured += columns.get("Scalars:scalars", []) if chunk.entity_path == "/joints/measured" else []
    assert len(steps) > 10 and measured == [values for values, _ in steps]
    for (shown,), (_, frame) in zip(frames, steps, strict=True):
        np.testing.assert_array_equal(np.array(shown).reshape(SIZE, SIZE, 3), frame)
    with pytest.raises(FileExistsError):  # it is not written over
        running(episodes=1, viewer="rerun", viewer_file=str(file)).run()


def test_a_viewer_that_does_not_come_up_is_a_line_before_anything_is_begun(running, monkeypatch):
    from rerun import RecordingStream

    def spawn(_):
        raise RuntimeError("no screen")

    monkeypatch.setattr(RecordingStream, "spawn", spawn)
    with pytest.raises(UserError, match=r"^viewer=rerun: the viewer does not come up.*; viewer_file=run\.rrd leaves"):
        running(viewer="rerun").run()


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_viewer_that_hangs_or_fails_says_so_and_the_arm_goes_on(running, tmp_path, monkeypatch, capsys, how):
    hung = threading.Event()

    def log(*_):
        if how == "fails":
            raise RuntimeError("no room")
        hung.wait(WAIT_S)

    monkeypatch.setattr(views, "PATIENCE_S", 0.1)
    monkeypatch.setattr(views.RerunView, "_log", log)
    result = running(episodes=1, seconds=1.0, viewer="rerun", viewer_file=str(tmp_path / "run.rrd")).run()
    hung.set()
    for left in threading.enumerate():  # it goes on with what was queued, which is no business of the next test
        if left.name == "rerun":
            left.join(WAIT_S)
            assert not left.is_alive()
    assert (result["ended"], result["faults"]) == ("done", [])
    line = {"hangs": "the viewer did not take the last of it", "fails": "the viewer shows no more: no room\n"}[how]
    assert capsys.readouterr().err.count(line) == 1


def test_where_nothing_can_be_drawn_a_policy_that_sees_is_refused_in_a_line(running, monkeypatch):
    session = running()
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(ConnectionError, match=r"^[^\n]*nothing can be drawn: MUJOCO_GL=disabled$"):
        session.run()


@pytest.mark.parametrize(("count", "line"), [(10, None), (11, "bytes at a time; at most")])
def test_frames_that_no_message_to_a_planner_holds_are_refused(checkpoint, count, line):
    spec = load_agent(checkpoint).spec
    vision = replace(spec.model.vision, frame_lags=tuple(range(count)))
    senses = {"observation.images.overhead": (512, 512, 3)}
    spec = replace(spec, senses=senses, model=replace(spec.model, vision=vision))
    session = RunSession(RunConfig(checkpoint="c"), None, spec, TASK)
    with pytest.raises(ConfigError, match=line) if line else contextlib.nullcontext():
        session.check()


ARM, ON_TWIN = {"robot": "so101", "port": "p", "id": "i"}, {"robot": "so101-twin"}
LIFT, FREE = TaskConfig("so101-pick-lift"), TaskConfig("so101-move", state="joints", reward="none")
OPENCV = {"type": "opencv", "index_or_path": 0}
STATE, CAMERA, BOTH = ("state",), ("state", "images.overhead"), ("state", "images.overhead", "language")
UNFIT = [  # a checkpoint's task and senses, what it is to be run with, the line
    (TASK, CAMERA, ON_TWIN, r"the checkpoint's cameras are overhead; e\.g\. 'robot_cameras={overhead"),
    (TASK, CAMERA, ON_TWIN | {"robot_cameras": {"overhead": {}, "top": {}}}, r"robot_cameras\.top: "),
    (TASK, ("images.under",), {}, r"the checkpoint's cameras are under; so101-sim has main, .* not under$"),
    (None, STATE, ON_TWIN | {"robot_cameras": {"a": {}}}, r"robot_cameras\.a: .* cameras are none"),
    (TASK, BOTH, {"instruction": " . "}, r"instruction: ' \. ' is without text; it says what to do"),
    (None, STATE, {"instruction": "go"}, r"instruction=go: the checkpoint was trained without language"),
    (None, STATE, ARM, r"target=: where the task's object is"),
    (None, STATE, ARM | {"target": [0.1, 0.0, 0.01]}, r"target=\[0\.1, 0\.0, 0\.01\]: so101-touch is trained with"),
    (TASK, STATE, {}, r"checkpoint=.*: of task\.state=joints without a camera"),
    (FREE, STATE, ON_TWIN, r"checkpoint=.*: trained without reward; guidance= says what it is to do"),
    (FREE, STATE, ARM | {"guidance": GuidanceKeys("g")}, None),
    (LIFT, CAMERA, ARM, r"robot=so101: so101-pick-lift needs to know how its objects move"),
    (replace(LIFT, state="joints"), CAMERA, ARM | {"robot_cameras": {"overhead": OPENCV}}, None),
    (None, STATE, ARM | {"target": [0.3, 0.0, 0.01]}, None),
]


@pytest.mark.parametrize(("task", "senses", "keys", "line"), UNFIT)
def test_a_checkpoint_is_run_only_where_it_can_know_what_it_needs(checkpoint, task, senses, keys, line):
    shapes = {"state": (37,), "language": (256,)}
    spec = load_agent(checkpoint).spec
    spec = replace(spec, senses={f"observation.{name}": shapes.get(name, (SIZE, SIZE, 3)) for name in senses})
    session = RunSession(RunConfig(checkpoint="c", **keys), None, spec, task or TaskConfig("so101-touch"))
    if line is None:
        session.check()
        return
    with pytest.raises(ValueError, match=f"^{line}"):
        session.check()
