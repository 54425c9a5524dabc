"""An arm with cameras and instructions shows the model what training showed; a cable falls out, and it goes on."""

import contextlib
from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
import torch
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
from robot.cameras import CameraBuffer
from robot.config_so101 import SimCameraConfig, SO101SimConfig
from robot.loop import Loop
from robot.settings import RecordConfig, RunConfig, ServeConfig
from robot.so101 import SimCamera, SO101Sim
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


def test_the_simulated_arm_shows_what_training_showed():
    senses = Senses(("images.overhead", f"images.{WRIST}"), SIZE)
    env, names = make(TASK, senses=senses), senses.cameras
    sizes = senses.sizes.items()
    config = {name: SimCameraConfig(view=name, height=high, width=wide, fps=30) for name, (high, wide) in sizes}
    robot = SO101Sim(SO101SimConfig(control_hz=HZ, cameras=config))
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


@pytest.mark.parametrize("planned", [True, False])
def test_a_planners_process_decides_as_the_agent_does_from_the_same_senses(checkpoint, planned):
    answering, loaded = (
        planner_service(ServeConfig(checkpoint=str(checkpoint), seed=3, planner=planned)),
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
