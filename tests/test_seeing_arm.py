"""An arm with cameras and words: what it shows the model is what training showed; a cable falls out, and goes on."""

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

from configs.arm.compatibility import ROOM_FOR_REST, Fit
from configs.runs.loading import load_agent
from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.training.episodes import observe
from robot.arms import simulated
from robot.cameras import BLIND_S, CameraBuffer, SteadyCamera
from robot.config_so101_sim import SimCameraConfig
from robot.loop import Loop
from robot.running.settings import RunConfig
from robot.so101_sim import SimCamera
from worldmodel.observation import Observation
from worldmodel.senses import IMAGE_KEY_PREFIX

TASK = TaskConfig("so101-touch", state="joints")
SENSES = ("state", "images.overhead", "language")
SIZE, WAIT_S, HZ = 32, 60.0, 30.0
WRIST = "wrist:24x40"
LIT, DARK = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, untaught):
    return untaught(tmp_path_factory.mktemp("run"), TASK, senses=SENSES, image_size=SIZE)


@pytest.fixture(scope="module")
def two_eyed(tmp_path_factory, untaught):
    """One with a second camera, of another size."""
    return untaught(tmp_path_factory.mktemp("run"), TASK, senses=(*SENSES, f"images.{WRIST}"), image_size=SIZE)


def running(checkpoint, **keys):
    from configs.arm.running import Running

    return Running.begin(RunConfig(str(checkpoint), **{"viewer": "none"} | keys))


def until(true) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_simulated_arm_shows_what_training_showed():
    senses = Senses(("images.overhead", "images.wrist:24x40"), SIZE)
    env, names = make(TASK, senses=senses), senses.cameras
    sizes = senses.sizes.items()
    config = {name: SimCameraConfig(view=name, height=high, width=wide, fps=30) for name, (high, wide) in sizes}
    robot = simulated("so101-touch", HZ, cameras=config)
    robot.connect()
    eyes = CameraBuffer(senses.sizes, (0, 2), hz=HZ)
    shown, _ = env.reset(seed=5)
    robot.reset(5)
    before = []
    for step in range(4):
        before.append(shown)
        observation = robot.get_observation()
        eyes.see(observation)
        frames, there = eyes.now()
        assert there.all()
        for camera, name in zip(frames, names, strict=True):
            np.testing.assert_array_equal(camera[0], shown[f"observation.images.{name}"])
            np.testing.assert_array_equal(camera[1], before[max(0, step - 2)][f"observation.images.{name}"])
        shown, *_ = env.step(np.full(6, 0.5 * (step % 2), np.float32))
        targets = robot.units.from_rad(env.unwrapped.commanded)
        robot.send_action(dict(zip(robot.action_features, targets.tolist(), strict=True)))
    robot.disconnect()
    env.close()


moments = st.tuples(st.booleans(), st.integers(1, 3))


@given(st.lists(moments, min_size=1, max_size=12), st.sampled_from([(0,), (0, 2), (1, 3)]))
def test_eyes_show_the_frames_of_before_and_which_camera_is_dark(seen, lags):
    """Some frames come several control steps after the last one: until then that one was the newest."""
    eyes, shown, lit = CameraBuffer({"a": LIT.shape[:2]}, lags, hz=HZ, say=[].append), [], [True]
    for number, (light, steps) in enumerate(seen):
        shown = [] if not lit[-1] else shown  # before a frame that shows something again there is nothing
        shown += shown[-1:] * (steps - 1) + [np.roll(LIT, number, 0) if light else DARK]
        lit.append(light)
        eyes.see({"a": shown[-1], "joint.pos": 0.0}, steps)
    frames, there = eyes.now()
    assert there.tolist() == [lit[-1]]
    for frame, lag in zip(frames[0], lags, strict=True):
        np.testing.assert_array_equal(frame, shown[max(0, len(shown) - 1 - lag)])
    eyes.forget()
    eyes.see({"a": LIT})
    assert all(np.array_equal(frame, LIT) for frame in eyes.now()[0][0])


@pytest.mark.parametrize("alone", [True, False])
def test_a_dark_camera_is_reported_once_and_only_an_arm_without_another_sense_is_blind(alone):
    said, second = [], round(BLIND_S * HZ)
    eyes = CameraBuffer({"a": (SIZE, SIZE), "b": (16, 24)}, hz=HZ, alone=alone, say=said.append)
    for frames in [(LIT, LIT)] + [(DARK, LIT)] * 60 + [(LIT, DARK)] * 2:
        eyes.see(dict(zip("ab", frames, strict=True)))
        assert not eyes.blind
    kept = ["camera a: frames of one colour", "camera a: shows something again"]
    assert [line.partition(";")[0] for line in said] == kept
    for _ in range(second):
        eyes.see({"a": DARK, "b": DARK})
        assert not eyes.blind
    eyes.see({"a": DARK, "b": DARK})
    assert eyes.blind == alone and not CameraBuffer().blind


@pytest.mark.parametrize("size", [(16, 16), (24, 32), (20, 16), (16, 64)])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (33, 33), (480, 640)])
def test_a_real_cameras_frame_is_its_largest_middle_part_of_the_models_proportions(shape, size):
    scale = min(whole / side for whole, side in zip(shape, size, strict=True))
    down, right = (round(scale * side) for side in size)
    top, left = (shape[0] - down) // 2, (shape[1] - right) // 2
    frame = np.zeros((*shape, 3), np.uint8)
    frame[top : top + down, left : left + right] = 200
    eyes = CameraBuffer({"a": size}, hz=HZ)
    eyes.see({"a": frame})
    ((newest,),), _ = eyes.now()
    assert newest.shape == (*size, 3)
    assert (newest == 200).all()
    frame[top, :] = frame[:, left + right - 1] = 0  # which are still seen
    eyes.see({"a": frame})
    ((newest,),), _ = eyes.now()
    assert (newest[0] < 200).all() and (newest[:, -1] < 200).all()


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
    Cable.tries = 0
    camera.connect()
    assert camera.read_latest().mean() == 180
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    assert camera.read_latest().shape == (48, 64, 3)
    assert camera.is_connected
    until(lambda: Cable.tries >= 2)  # it fails to connect again
    assert said == [said[0]]
    assert said[0].startswith("camera front: OpenCVCamera(0) ")
    assert said[0].endswith("; connecting again")
    monkeypatch.setattr(Cable, "plugged", True)
    until(lambda: camera.read_latest().any())
    assert said[1:] == ["camera front: connected again"]
    camera.disconnect()
    camera.disconnect()
    assert not camera.is_connected
    camera.connect()
    assert camera.read_latest().any()
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    camera.disconnect()  # while it is being looked for
    assert not camera.is_connected


def test_a_plan_is_due_when_the_robot_it_is_for_says(checkpoint):
    """One robot's deadline is not the next's; one that says none gets the planner's own."""
    from configs.arm.planning import begin_of, planner_service

    answering = planner_service(checkpoint, 3, "cpu", 1, True)
    loaded = load_agent(checkpoint, 3)
    begin = begin_of(loaded.spec, loaded.task, 2, "Touch the red cube.")
    plan, deadlines = answering.agent.planner.plan, []

    def noting(observation, memory, generator, deadline, start):
        deadlines.append(deadline)
        return plan(observation, memory, generator, deadline, start)

    answering.agent.planner.plan = noting
    for due_ms in (5.0, 0.0):
        answering.begin(replace(begin, deadline_ms=due_ms))
        asked = time.perf_counter()
        answering.answer(answering.blank())
        if due_ms:
            assert asked + 0.005 <= deadlines[-1] <= time.perf_counter() + 0.005
    assert deadlines[-1] is None


@pytest.mark.parametrize("planned", [True, False])
def test_a_planners_process_decides_as_the_agent_does_from_the_same_senses(two_eyed, planned):
    from configs.arm.planning import begin_of, planner_service
    from policies.planner_link.messages import Question, Refusal, Refused
    from policies.text_encoder import Words

    answering = planner_service(two_eyed, 3, "cpu", 1, planned)
    loaded = load_agent(two_eyed, 3, planned=planned)
    agent, task = loaded.agent, loaded.task
    begin = replace(begin_of(loaded.spec, task, 2, "Touch the red cube."), deadline_ms=0.0)
    answering.begin(begin)
    lags = agent.model.config.vision.frame_lags
    env = make(TASK, senses=Senses((*SENSES, f"images.{WRIST}"), SIZE))
    shown, _ = env.reset(seed=1)
    state, cameras = shown["observation.state"], ("overhead", "wrist")
    for there in ((True, True), (False, True), (True, False)):
        older = [  # what was seen so many steps ago
            {name: np.roll(shown[f"observation.images.{name}"], lag, 0) for name in cameras}
            for lag in range(max(lags) + 1)
        ]
        frames = tuple(np.stack([older[lag][name] for lag in lags]) for name in cameras)
        answering.agent.generator.manual_seed(7)
        answer = answering.answer(Question(1, True, state, frames, np.array(there)))
        agent.generator.manual_seed(7)
        agent.forget()
        for shots in reversed(older):
            seen = {
                "observation.state": torch.from_numpy(state)[None],
                **{f"observation.images.{name}": torch.from_numpy(shot)[None] for name, shot in shots.items()},
                "observation.language": Words().encode(["touch the red cube"]),
            }
            masks = {f"{IMAGE_KEY_PREFIX}{name}": torch.tensor([now]) for name, now in zip(cameras, there, strict=True)}
            seen = agent.frames.see(Observation.of(agent.model.senses, seen, masks))
        np.testing.assert_array_equal(answer.actions, agent.decide(seen).actions[0].numpy()[: begin.every])
    refusal = answering.answer(Question(1, True, state))
    assert isinstance(refusal, Refusal) and "(2, 32, 32, 3), (2, 24, 40, 3)" in refusal.reason
    with pytest.raises(Refused, match=r"^observation\.language: sentence 0 is ''"):
        answering.begin(replace(begin, sentence=""))
    assert begin.cameras == f"overhead:{SIZE}x{SIZE},wrist:24x40"
    with pytest.raises(Refused, match=r"cameras is .*, the robot's overhead:32x32,wrist:40x24$"):
        answering.begin(replace(begin, cameras="overhead:32x32,wrist:40x24"))
    env.close()


def test_it_runs_on_the_simulated_arm_by_its_cameras_and_its_sentence(two_eyed):
    result = running(two_eyed, episodes=1, seconds=1.0, sentence="reach for the red cube").run()
    assert (result["ended"], result["faults"], result["episodes"]) == ("done", [], 1)
    assert result["plans"] >= 2
    assert 0 <= result["success_rate"] <= 1


def test_frames_that_no_message_holds_are_refused(two_eyed, monkeypatch):
    run, frames = running(two_eyed), 2 * 3 * (SIZE * SIZE + 24 * 40)
    assert run.fit.senses.sizes == {"overhead": (SIZE, SIZE), "wrist": (24, 40)}
    monkeypatch.setattr("configs.arm.compatibility.LARGEST", ROOM_FOR_REST + frames)
    run.fit.check()
    monkeypatch.setattr("configs.arm.compatibility.LARGEST", ROOM_FOR_REST + frames - 1)
    with pytest.raises(ValueError, match=rf"overhead, wrist: {frames} bytes at a time; at most {frames - 1} reach"):
        run.fit.check()


def test_an_arm_that_can_see_nothing_and_knows_nothing_else_stops(tmp_path, capsys, untaught, monkeypatch):
    monkeypatch.setattr(Loop, "recover", partialmethod(Loop.recover, patience_s=0.2))
    checkpoint = untaught(tmp_path, TASK, senses=("images.overhead",), image_size=SIZE)
    monkeypatch.setattr(SimCamera, "read_latest", lambda camera, max_age_ms=500: DARK)
    result = running(checkpoint, episodes=2, seconds=6.0).run()
    assert result["ended"] == "fault"
    assert result["faults"][0].startswith("blind: nothing to be seen through overhead")
    assert "camera overhead: frames of one colour" in capsys.readouterr().err


def test_a_policy_that_sees_can_be_recorded_and_begins_as_in_training(two_eyed, tmp_path, monkeypatch):
    from configs.arm.recording import Recording
    from robot.recording.settings import RecordConfig

    keys = RecordConfig(str(tmp_path / "d"), by="policy", checkpoint=str(two_eyed), episodes=1, seconds=0.5)
    keys = replace(keys, limits="trained")
    acted, act = [], Agent.act
    monkeypatch.setattr(Agent, "act", lambda agent, seen: acted.append((seen, act(agent, seen))) or acted[-1][1])
    assert Recording(keys).run()["frames"] == len(acted) == 15
    loaded = load_agent(two_eyed)
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


def test_the_rerun_viewer_gets_every_tick_with_what_the_camera_shows_the_model(checkpoint, tmp_path, monkeypatch):
    from rerun.experimental import RrdReader

    from robot.running.rerun_view import Rerun

    told, log = [], Rerun.__call__

    def telling(view, step, follower):
        told.append((step.reading.values.tolist(), follower.cameras.newest["overhead"]))
        log(view, step, follower)

    monkeypatch.setattr(Rerun, "__call__", telling)
    file = tmp_path / "run.rrd"
    running(checkpoint, episodes=1, seconds=0.5, viewer="rerun", viewer_file=str(file)).run()
    rows, frames, measured = {}, [], []
    for chunk in RrdReader(file).store().stream():
        if not chunk.is_static:
            path, columns = chunk.entity_path, chunk.to_record_batch().to_pydict()
            rows[path] = rows.get(path, 0) + chunk.num_rows
            frames += columns.get("Image:buffer", [])
            measured += columns["Scalars:scalars"] if path == "/joints/measured" else []
    assert 10 < len(told) == rows["/joints/sent"] == rows["/margins"] == rows["/tick"] == rows["/plan"]
    assert measured == [values for values, _ in told]
    assert rows["/token"] >= 1
    assert rows["/said"] >= 1
    for (shown,), (_, frame) in zip(frames, told, strict=True):
        np.testing.assert_array_equal(np.array(shown).reshape(SIZE, SIZE, 3), frame)


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_viewer_that_hangs_or_fails_says_so_and_the_arm_goes_on(checkpoint, tmp_path, monkeypatch, capsys, how):
    from robot.running import rerun_view

    hung = threading.Event()

    def log(*moment):
        if how == "fails":
            raise RuntimeError("no room")
        hung.wait(WAIT_S)

    monkeypatch.setattr(rerun_view, "PATIENCE_S", 0.1)
    monkeypatch.setattr(rerun_view.Rerun, "_log", log)
    result = running(checkpoint, episodes=1, seconds=1.0, viewer="rerun", viewer_file=str(tmp_path / "run.rrd")).run()
    hung.set()
    for left in threading.enumerate():  # it goes on with what was queued, which is no business of the next test
        if left.name == "rerun":
            left.join(WAIT_S)
            assert not left.is_alive()
    assert (result["ended"], result["faults"]) == ("done", [])
    line = {"hangs": "the viewer did not take the last of it", "fails": "the viewer shows no more: no room\n"}[how]
    assert capsys.readouterr().err.count(line) == 1


def test_a_viewer_that_does_not_come_up_is_refused_before_the_arm_moves(checkpoint, monkeypatch):
    import rerun

    def fails(*_, **__):
        raise RuntimeError("no window")

    monkeypatch.setattr(rerun.RecordingStream, "spawn", fails)
    with pytest.raises(
        ValueError, match=r"^viewer=rerun: the viewer does not come up, as without a screen; viewer_file="
    ):
        running(checkpoint, episodes=1, viewer="rerun").run()


def test_a_file_of_before_is_not_written_over(checkpoint, tmp_path):
    (tmp_path / "run.rrd").touch()
    with pytest.raises(FileExistsError):
        running(checkpoint, episodes=1, viewer="rerun", viewer_file=str(tmp_path / "run.rrd")).run()


ARM = {"robot": "so101", "port": "p", "id": "i"}
OPENCV = {"type": "opencv", "index_or_path": 0}
UNFIT = [  # a checkpoint's task and senses, what it is to be run with, the line
    (TASK, SENSES, {"robot": "so101-twin"}, r"the checkpoint looks through overhead; say which that is, e.g. 'robot_"),
    (TASK, SENSES, {"robot": "so101-twin", "robot_cameras": {"overhead": {}, "top": {}}}, r"robot_cameras\.top: the "),
    (TASK, SENSES, {"sentence": " . "}, r"sentence: ' \. ' is without text; it says what to do"),
    (None, ("state",), {"sentence": "go"}, r"sentence=go: the checkpoint hears no words"),
    (None, ("state",), {"robot": "so101-twin", "robot_cameras": {"a": {}}}, r"robot_cameras\.a: .* through no camera"),
    (None, ("state",), ARM, r"target=: where the task's object is"),
    (
        None,
        ("state",),
        ARM | {"target": [0.1, 0.0, 0.01]},
        r"target=\[0\.1, 0\.0, 0\.01\]: so101-touch is trained with",
    ),
    (TASK, ("state",), {}, r"checkpoint=.*: of task\.state=joints without a camera: it sees nothing$"),
    (TaskConfig("so101-pick-lift"), SENSES, ARM, r"robot=so101: so101-pick-lift must be told how its things move"),
    (TaskConfig("so101-pick-lift", state="joints"), SENSES, ARM | {"robot_cameras": {"overhead": OPENCV}}, None),
]


@pytest.mark.parametrize(("task", "senses", "keys", "line"), UNFIT)
def test_a_checkpoint_is_run_only_where_it_can_know_what_it_needs(checkpoint, task, senses, keys, line):
    shapes = {"state": (37,), "images.overhead": (SIZE, SIZE, 3), "language": (256,)}
    identity = replace(load_agent(checkpoint).spec, senses={f"observation.{name}": shapes[name] for name in senses})
    fit = Fit(RunConfig("c", **keys), identity, task or TaskConfig("so101-touch"))
    if line is None:
        fit.check()
        assert not fit.told
        return
    with pytest.raises(ValueError, match=f"^{line}"):
        fit.check()
