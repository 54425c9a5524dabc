"""Laws of environments that fail: no faulty step is learned from, no run is lost by one, and none hangs in silence."""

import functools
import hashlib
import os
import signal
import subprocess
import sys
import time
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from configs.command import composed
from configs.reporting import Ended
from configs.runs.training import Training
from envs.make import make_vector
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost
from policies.training.episodes import episode_seed

BAD = {episode_seed(1, 0, env, episode) for env in range(2) for episode in (2, 3, 5)}
JUDGED, FILMED = ({episode_seed(seed, stream, 0, 0) for seed in (0, 100, 1000)} for stream in (1, 2))
LIMIT = 12


class Frail(gymnasium.Env):
    """A point on a line, whose `kind` of fault comes at the fifth step (or the reset) of the episodes in BAD."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Dict({"at": spaces.Box(-9, 9, (2,)), "eye": spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    mended, made = False, 0

    def __init__(self, kind="none", render_mode=None):
        self.kind, self.render_mode = kind, render_mode
        Frail.made += 1
        if kind == "second" and Frail.made > 1:
            raise KeyError("port")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        bad = {"judged": JUDGED, "filmed": FILMED}.get(self.kind, BAD)
        self.bad, self.place, self.clock = seed in bad, self.np_random.uniform(-1, 1), 0
        if self.bad and self.kind == "reset":
            raise ConnectionError("the server is gone")
        return self.see(), {}

    def step(self, action):
        self.clock += 1
        self.place += 0.1 * float(action[0])
        if self.kind == "first" and not Frail.mended:
            raise OSError("no\nserver")
        reward = 1 - abs(self.place)
        if self.bad and self.clock == 5:
            if self.kind in ("raise", "judged", "filmed"):
                raise KeyError("wheel")
            if self.kind == "hang":
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # never back in Python, where signals are handled
            self.place = np.nan if self.kind == "unknown" else self.place
            reward = 1e300 if self.kind == "vast" else reward
        return self.see(), reward, False, False, {}

    def render(self):
        if self.kind == "drawn":
            raise KeyError("canvas")
        return "a picture" if self.kind == "text" else np.zeros((20, 30, 3), np.uint8)

    def see(self):
        at = np.array([self.place, self.clock / 10], np.float32)
        return {"at": at, "eye": np.zeros((16, 16, 3), np.uint8)}


if "Frail-v0" not in gymnasium.registry:  # this file is also a plug-in of the commands that it starts
    gymnasium.register("Frail-v0", Frail, max_episode_steps=LIMIT)


@pytest.fixture
def keys(toys):
    """The keys of a run of 48 steps in it, without `kind`."""
    short = ("steps=48", "seed_steps=20", "evaluation.every=0", "evaluation.episodes=1", "checkpoint.every=30")
    return [*toys.tiny_keys, "task=gym", "task.id=Frail-v0", f"plugins=['{__file__}']", *short]


def begun(keys, folder, *more):
    return Training.begin(composed("train", [*keys, *more]), folder, {"resume", "on_fault"})


SAID = {
    "raise": r"Frail-v0, control step 5: KeyError: 'wheel' (test_faults.py, line ",
    "unknown": "Frail-v0, control step 5: observation.state[0] (at[0]) is nan",
    "vast": "Frail-v0, control step 5: the reward is 1e+300",
    "reset": "Frail-v0, control step 0: ConnectionError: the server is gone (test_faults.py, line ",
}


@pytest.mark.parametrize(("kind", "envs"), [("raise", 1), ("unknown", 1), ("vast", 2), ("reset", 1)])
def test_a_faulty_step_is_not_stored_and_to_stop_and_go_on_is_not_to_have_stopped(
    keys, tmp_path, capfd, monkeypatch, kind, envs
):
    monkeypatch.setattr("configs.runs.parts.make_vector", functools.partial(make_vector, processes=False))
    keys = [*keys, f"+task.kwargs.kind={kind}", f"envs={envs}"]
    run = begun(keys, tmp_path / "whole", "on_fault=drop_episode")
    whole, replay = run.run(), run.parts.trainer.replay
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(SAID[kind])]
    assert whole["faults"] == len(said) >= 3 and all(line.endswith("; the episode ends there") for line in said)
    assert replay.steps == 48 - whole["faults"] * (kind != "reset") and not replay.terminated.any()
    assert replay.reward.isfinite().all() and replay.seen["observation.state"].isfinite().all()
    clock = (10 * replay.seen["observation.state"][0, : int(replay.head[0]), 1]).round()
    assert set(clock[replay.final[0, : len(clock)]].int().tolist()) == ({LIMIT} if kind == "reset" else {4, LIMIT})

    folder = tmp_path / "stopped"
    with pytest.raises(Ended, match="; on_fault=drop_episode goes on by itself; go on with: semagram-train resume="):
        begun(keys, folder).run()
    with pytest.raises(Ended) as end:
        begun(keys, folder, f"resume='{folder}'").run()
    assert end.value.code == 1 and str(end.value).startswith(SAID[kind])
    stopped = begun(keys, folder, f"resume='{folder}'", "on_fault=drop_episode").run()
    assert (folder / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    assert stopped["faults"] == whole["faults"] and stopped["returns"] == whole["returns"]


def test_three_episodes_in_a_row_without_a_step_end_the_run_which_goes_on_once_mended(keys, tmp_path, monkeypatch):
    keys = [*keys, "+task.kwargs.kind=first", "on_fault=drop_episode"]
    line = r"^Frail-v0, control step 1: OSError: no server \(.*\); 3 episodes in a row had no step; go on with: "
    with pytest.raises(Ended, match=line) as end:
        begun(keys, tmp_path / "run").run()
    assert isinstance(end.value.__cause__.__cause__, OSError)
    monkeypatch.setattr(Frail, "mended", True)
    assert begun(keys, tmp_path, f"resume='{tmp_path / 'run'}'").run()["faults"] == 3


def test_a_camera_that_is_not_perceived_is_told_once(keys, tmp_path, capfd):
    begun(keys, tmp_path / "run").parts.close()
    told = "images.eye is there and not perceived; senses=[state,images.eye]\n"
    assert capfd.readouterr().err.count(told) == 1
    begun(keys, tmp_path / "eye", "senses=[state,images.eye]", "image_size=16").parts.close()
    assert "perceived" not in capfd.readouterr().err


AT_END = {
    "judged": (False, "Frail-v0, control step 5: KeyError: 'wheel' (test_faults.py, line "),
    "second": (False, "Frail-v0, being made: KeyError: 'port' (test_faults.py, line "),
    "filmed": (True, "Frail-v0, control step 5: KeyError: 'wheel' (test_faults.py, line "),
    "drawn": (True, "Frail-v0, control step 0: KeyError: 'canvas' (test_faults.py, line "),
}


@pytest.mark.parametrize("kind", AT_END)
def test_a_fault_in_an_evaluation_or_a_film_is_one_line_and_keeps_what_was_finished(
    keys, command, tmp_path, monkeypatch, kind
):
    filmed, line = AT_END[kind]
    own = [f"plugins=['{__file__}']", f"video={str(filmed).lower()}"]
    for words in (
        ["train", *keys, f"+task.kwargs.kind={kind}", *own, "hydra.run.dir=run"],
        ["train", "resume=run", *own, "steps=50"],
        ["evaluate", "checkpoint=run", "episodes=1", *own, "hydra.run.dir=eval"],
    ):
        monkeypatch.setattr(Frail, "made", int(words[0] == "evaluate"))
        code, out, said = command(*words)
        assert (code, out) == (2, "") and said.splitlines()[-1].startswith(f"semagram: {line}")
        assert "Traceback" not in said
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["000000048", "000000050", "last"]
    assert [(tmp_path / place / "summary.json").exists() for place in ("run", "eval")] == [filmed, filmed]
    assert not [*tmp_path.rglob("*rollout*")]


def test_what_a_render_returns_that_is_no_picture_is_told(keys, command):
    code, _, said = command("train", *keys, "+task.kwargs.kind=text", "video=true")
    assert code == 0 and "no video: Frail-v0 draws nothing: its render() returned" in said


HANGS = "import envs.vector; envs.vector.WARN_S = 0.5; from configs.commands import train; train()"


def test_an_environment_of_this_process_that_hangs_is_reported_and_ended_by_the_first_signal(keys, tmp_path):
    words = [sys.executable, "-c", HANGS, *keys, "+task.kwargs.kind=hang", "hydra.run.dir=run"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        told = next(line for line in process.stderr if "hangs, " in line)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate()[1]
    assert told.startswith("Frail-v0, control step 5: hangs, no answer for ")
    assert process.returncode == 128 + signal.SIGTERM and time.monotonic() - sent < 10
    assert "stopped by SIGTERM in a step that hangs; go on with: semagram-train resume=" in rest


class Scores(gymnasium.ActionWrapper):
    """What the refusal of discrete actions proposes."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.Box(-1, 1, (int(env.action_space.n),), np.float32)

    def action(self, action):
        return int(action.argmax())


def test_the_wrapper_that_the_refusal_of_discrete_actions_proposes_will_do(monkeypatch):
    from envs.make import make
    from worldmodel import registry

    with pytest.raises(ValueError, match=r"its actions are Discrete\(2\), but .*task.wrappers="):
        make(TaskConfig("gym", "CartPole-v1"))
    registry.register("wrapper", "scores")(Scores)
    env = make(TaskConfig("gym", "CartPole-v1", wrappers=("scores",)))
    env.reset(seed=0)
    assert env.step(np.float32([0, 1]))[1] == 1


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "line"),
    [
        (EnvironmentLost("it is gone"), Ended, r"^it is gone; go on with: semagram-train resume=.*run$"),
        (EnvironmentFault("it is nan"), EnvironmentFault, "^it is nan; going on comes to the same point: take another"),
    ],
)
def test_a_run_that_its_environment_ends_says_how_to_go_on_and_leaves_the_folder(
    toys, tmp_path, monkeypatch, here, fault, kind, line, saved
):
    def fails(*_):
        raise fault

    run = Training.begin(composed("train", toys.tiny_keys), tmp_path / "run")
    if saved:
        run._save()
    monkeypatch.setattr(run.parts.trainer, "step", fails)
    with pytest.raises(kind, match=line if saved or kind is EnvironmentFault else "^it is gone$") as caught:
        run.run()
    assert caught.value.__cause__ is fault
    os.close(run.folder.take())
