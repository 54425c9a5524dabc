"""LeRobot's own commands with Semagram: each finds what it needs, and does what Semagram's own would."""

import importlib
import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from configs.runs.loading import load_agent
from envs.make import make_vector
from envs.settings import TaskConfig
from policies.storage.checkpoint import load_model, read_spec, save_checkpoint
from policies.storage.folders import FolderError
from policies.training.episodes import observe
from robot.config_so101 import SimCameraConfig, SO101SimConfig
from robot.datasets import read
from robot.safety.stops import SIGNALS
from robot.so101 import SO101Sim
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

PLUGIN = "lerobot_policy_semagram"
ROOT = Path(__file__).parents[1]
TASK = TaskConfig("cartpole-swingup", max_control_steps=24)
STEPS, EPISODES = 40, 3


def names(*path):
    """The distributions that a fresh interpreter finds, and where it finds the module that LeRobot imports."""
    program = (
        "import site, sys, importlib.metadata as m, importlib.util as u\n"
        "[site.addsitedir(p) for p in sys.argv[1:]]\n"
        f"print([d.metadata['Name'] for d in m.distributions()].count({PLUGIN!r}), u.find_spec({PLUGIN!r}).origin)"
    )
    command = [sys.executable, "-I", *(["-S"] if path else []), "-c", program, *map(str, path)]
    count, origin = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(count), Path(origin)


def test_a_checkout_has_the_distribution_that_lerobot_looks_for():
    assert names() == (1, ROOT / "configs" / "plugin" / f"{PLUGIN}.py")
    assert importlib.metadata.version(PLUGIN) == importlib.metadata.version("semagram")


def test_a_wheel_has_it_too(tmp_path):
    """Its files as pyproject.toml lays them out, in a folder of packages of their own."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for source, name in wheel["force-include"].items():
        shutil.copy(ROOT / source, tmp_path / name)
    assert names(tmp_path) == (1, tmp_path / "configs" / "plugin" / f"{PLUGIN}.py")


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    """Runs one of LeRobot's commands, in this process and in a folder of its own."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(tmp_path_factory.mktemp("home"))

        def run(name, *keys):
            warnings.simplefilter("ignore")
            script = importlib.import_module(f"lerobot.scripts.lerobot_{name}")
            patch.setattr(script, "init_logging", lambda *_, **__: None)
            patch.setattr(sys, "argv", [f"lerobot-{name}", *map(str, keys)])
            script.main()

        yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def checkpoint(toys, tmp_path_factory):
    """A checkpoint for a task of the suite, its tokens four steps long."""
    env = make_vector(TASK, 1, processes=False)
    trainer = toys.trainer(env, length=4)
    toys.run(trainer, 20)
    env.close()
    identity = replace(toys.spec(trainer), task=asdict(TASK))
    return save_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints", identity, trainer.state_dict(), {}, 1)


@pytest.mark.slow
def test_lerobot_eval_plays_as_semagram_eval_does(lerobot, checkpoint, tmp_path):
    """The same agent in the same two episodes earns the same, with the planner on: its every action was the same."""
    lerobot(
        *("eval", f"--policy.path={checkpoint}", "--policy.device=cpu", "--env.type=semagram"),
        *(f"--env.task={TASK.name}", f"--env.max_control_steps={TASK.max_control_steps}", "--seed=7"),
        *("--eval.n_episodes=2", "--eval.batch_size=2", "--eval.use_async_envs=false", f"--output_dir={tmp_path}/out"),
    )
    assert len([film for film in (tmp_path / "out" / "videos").glob("*/*.mp4") if film.stat().st_size]) == 2
    played = json.loads((tmp_path / "out" / "eval_info.json").read_text())["per_task"][0]["metrics"]["sum_rewards"]
    agent = load_agent(checkpoint, 100).agent
    env = make_vector(TASK, 2, processes=False)
    observation, _ = env.reset(seed=[7, 8])
    returns = np.zeros(2)
    for _ in range(TASK.max_control_steps):
        observation, reward, *_ = env.step(agent.act(observe(observation, agent.model.senses)).numpy())
        returns += reward
    env.close()
    assert returns[0] != returns[1]
    assert played == pytest.approx(returns.tolist(), rel=1e-9)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A dataset of the simulated arm waving in two ways, with a camera, as lerobot-record leaves it; its folder."""
    from lerobot.datasets import LeRobotDataset
    from lerobot.utils.feature_utils import hw_to_dataset_features

    folder = tmp_path_factory.mktemp("recorded")
    camera = SimCameraConfig(view="overhead", width=48, height=32, fps=30)
    robot = SO101Sim(SO101SimConfig(id="a", calibration_dir=folder / "calibration", cameras={"top": camera}))
    robot.connect()
    features = hw_to_dataset_features(robot.action_features, "action", use_video=False)
    features |= hw_to_dataset_features(robot.observation_features, "observation", use_video=False)
    root = folder / "wave"
    dataset = LeRobotDataset.create("local/wave", 30, root=root, features=features, use_videos=False)
    for episode in range(EPISODES):
        robot.reset(episode)
        for t in range(STEPS):
            seen = robot.get_observation()
            frame = seen.pop("top")
            joints = np.array(list(seen.values()), np.float32)
            goals = {name: float(20 + 15 * np.sin(t / 6 + i)) for i, name in enumerate(robot.action_features)}
            sent = np.array(list(robot.send_action(goals).values()), np.float32)
            shown = {STATE_KEY: joints, "observation.images.top": frame}
            dataset.add_frame(shown | {"action": sent, "task": ("wave", "wave with the gripper")[episode % 2]})
        dataset.save_episode()
    dataset.finalize()
    robot.disconnect()
    return root


@pytest.fixture(scope="module")
def imitator(lerobot, recorded, tmp_path_factory):
    """What lerobot-train leaves after a few steps on it."""
    out = tmp_path_factory.mktemp("trained") / "out"
    lerobot(
        *("train", "--policy.type=semagram", "--policy.device=cpu", "--policy.push_to_hub=false"),
        *("--dataset.repo_id=local/wave", f"--dataset.root={recorded}", "--num_workers=0", "--batch_size=8"),
        *("--steps=4", "--save_freq=4", "--log_freq=1", "--wandb.enable=false", f"--output_dir={out}"),
        *("--policy.model.width=16", "--policy.model.latent=16", "--policy.model.token.length=4"),
        "--policy.image_size=16",
    )
    return out / "checkpoints" / "last" / "pretrained_model"


@pytest.mark.slow
def test_lerobot_train_learns_from_a_recording(imitator):
    identity = read_spec(imitator)
    assert identity.senses == {STATE_KEY: (6,), "observation.images.top": (16, 16, 3), LANGUAGE_KEY: (256,)}
    assert (identity.action_size, identity.model.token.length) == (6, 4)
    assert identity.sentences == ("wave", "wave with the gripper")
    model = load_model(imitator, identity)
    assert float(model.normaliser.count) == STEPS * EPISODES
    with pytest.raises(FolderError, match="learned from recordings"):
        load_agent(imitator)


@pytest.mark.slow
def test_lerobot_rollout_drives_the_simulated_arm_within_what_was_recorded(lerobot, imitator, recorded, tmp_path):
    """A policy's token is bounded, so that it never commands what lies beyond its recordings."""
    root = tmp_path / "rollout"
    lerobot(
        *("rollout", "--strategy.type=episodic", f"--policy.path={imitator}", "--robot.type=semagram_so101_sim"),
        "--robot.cameras={top: {type: semagram_sim, view: overhead, width: 64, height: 48, fps: 30}}",
        f"--robot.calibration_dir={tmp_path}",
        *("--robot.id=sim", "--task=wave", "--fps=30", "--device=cpu", "--dataset.repo_id=local/rollout_wave"),
        *(f"--dataset.root={root}", "--dataset.no_stamp=true", "--dataset.push_to_hub=false"),
        *("--dataset.num_episodes=1", "--dataset.episode_time_s=1", "--dataset.reset_time_s=0"),
        *("--dataset.single_task=wave", "--dataset.video=false", "--play_sounds=false"),
    )
    shown, done = (np.concatenate(read(folder).episodes) for folder in (recorded, root))
    assert len(done)
    assert (done >= shown.min(0) - 1e-3).all() and (done <= shown.max(0) + 1e-3).all()


@pytest.mark.slow
def test_lerobot_replay_sends_the_simulated_arm_what_was_recorded(lerobot, recorded, tmp_path, monkeypatch):
    sent, send = [], SO101Sim.send_action
    monkeypatch.setattr(SO101Sim, "send_action", lambda robot, goals: sent.append(send(robot, goals)) or sent[-1])
    lerobot(
        *("replay", "--robot.type=semagram_so101_sim", "--robot.id=sim", f"--robot.calibration_dir={tmp_path}"),
        *("--dataset.repo_id=local/wave", f"--dataset.root={recorded}", "--dataset.episode=1", "--play_sounds=false"),
    )
    np.testing.assert_allclose([list(goals.values()) for goals in sent], read(recorded).episodes[1], atol=1e-4)
