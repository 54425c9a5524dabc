"""What the tests share: shapes and types checked while they run, seeded randomness, a tiny model, toy environments."""

import contextlib
import functools
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import absl.logging
import gymnasium
import hypothesis
import numpy as np
import pytest
import torch
from gymnasium import spaces
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored, here and in all that a test starts
# dm_control logs through absl, which closes what it writes to, a test's captured stderr, when Hydra sets up logging.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

STATE_KEY = "observation.state"
CHECKED = (
    *("worldmodel", "policies", "robot.modeling_semagram"),
    *("envs.benchmark.table", "envs.benchmark.figures", "envs.benchmark.results"),
)
"""Whose shapes the tests check: all that give any, but for films, which are tested with stand-ins for an agent."""
# An int is as good as a float, as it is to a static type checker.
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


class Slide(gymnasium.Env):
    """A point pushed along a line: state (place, speed, clock); deterministic from its seed and its actions.

    `action` (2,) moves and accelerates it. With a `limit` the episode terminates off |place| > 1 and is truncated
    after `limit` steps; without one it never ends. `memory` makes no two resets alike, as in an environment that is not
    deterministic.
    """

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    resets = 0

    def __init__(self, limit: int | None = None, memory: bool = False):
        self.limit, self.memory = limit, memory

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed, self.clock, self.over = self.np_random.uniform(-0.3, 0.3), 0.0, 0, False
        if self.memory:
            Slide.resets += 1
            self.speed = 0.01 * Slide.resets
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action) and not self.over, action
        self.clock += 1
        self.speed = 0.8 * self.speed + 0.2 * float(action[1])
        self.place += 0.4 * float(action[0]) + 0.1 * self.speed + 0.05 * self.np_random.normal()
        terminated = self.limit is not None and abs(self.place) > 1
        self.place = float(np.clip(self.place, -1, 1))
        reward = 1 - self.place**2 - 0.1 * self.speed**2
        self.over = terminated or self.clock == self.limit
        return self._see(), reward, terminated, self.clock == self.limit, {}

    def _see(self):
        return {STATE_KEY: np.array([self.place, self.speed, np.sin(self.clock)], dtype=np.float32)}


def slides(*limits: int | None, memory: bool = False) -> gymnasium.vector.SyncVectorEnv:
    """A vector of Slides, one for each limit, which reset only when told to."""
    return gymnasium.vector.SyncVectorEnv(
        [functools.partial(Slide, limit, memory) for limit in limits],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )


def token_settings(length: int):
    """A token of `length` steps: an action, a straight line or a parabola."""
    from worldmodel.settings import TokenConfig

    knots = {1: 1, 2: 2, 4: 3}[length]
    return TokenConfig(length, knots, knots - 1)


def tiny_config(**changes):
    """The smallest model that has every part."""
    from worldmodel.settings import ModelConfig

    return ModelConfig(**{"latent": 16, "group": 4, "width": 16, "bins": 11, "precision": "fp32"} | changes)


def tiny_model(senses: int | dict = 3, points: int = 2, seed: int = 0, **changes):
    """A model of these senses (or so large a state) with no head still at zero; its normaliser has seen something."""
    from worldmodel.model import WorldModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shapes = {"observation.state": (senses,)} if isinstance(senses, int) else senses
        model = WorldModel(shapes, points, tiny_config(**changes))
        for p in model.parameters():
            if not p.detach().any():
                torch.nn.init.normal_(p, std=0.1)
        model.normaliser.observe(torch.randn(20, model.state_size))
    return model


def trainer(
    env,
    length: int = 1,
    weights: int = 0,
    capacity: int = 200,
    precision: str = "fp32",
    vision=None,
    loop=None,
    **changes,
):
    """A trainer at its beginning, with tokens of this length; `changes`: of what it learns by.

    `loop`: more of the loop's own settings.

    `weights` seeds the model only: a resumed one must not depend on it.
    """
    from configs.runs.parts import senses_of
    from policies.agent import Agent
    from policies.settings import LoopConfig
    from policies.tokens.curves import Curve
    from policies.training.trainer import Trainer
    from worldmodel.learner import Learner
    from worldmodel.planner import Planner
    from worldmodel.replay import Replay
    from worldmodel.settings import LearningConfig, PlannerConfig

    token = token_settings(length)
    curve = Curve.of_token(token, env.single_action_space.shape[0])
    senses = senses_of(env.single_observation_space)
    sizes = {"token": token, "precision": precision} | ({"vision": vision} if vision else {})
    model = tiny_model(senses, curve.size, weights, **sizes)
    learning = LearningConfig(**{"batch_size": 8, "updates_per_token": 0.5} | changes)
    planning = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    generator = torch.Generator().manual_seed(1)
    discount = token.discount(0.9)
    planner = Planner(model, discount, planning)
    agent = Agent(model, curve, planner, generator, explore="pink")
    lags = model.config.vision.frame_lags
    named = len(env.metadata.get("quantities", ()))
    replay = Replay(capacity, env.num_envs, senses, env.single_action_space.shape[0], curve.size, lags, named)
    settings = LoopConfig(**{"steps": 1000, "seed_steps": 8, "seed": 1} | (loop or {}))
    learner = Learner(model, discount, learning)
    return Trainer(env, learner, agent, replay, settings, 2, 0.9)


def spec(of):
    """What a checkpoint of a toy trainer is for."""
    from policies.storage.checkpoint import AgentSpec

    model = of.learner.model
    planning = of.agent.planner.config
    return AgentSpec(
        {"name": "slide"},
        model.senses,
        of.curve.action_size,
        of.step_discount,
        of.env_steps,
        model.config,
        planning,
        ("go on",) if "observation.language" in model.senses else (),
    )


def observed(values, senses=None, **present):
    """An observation of B environments; `senses` as the values have them, `present` by `state`, `images_front`, ..."""
    from worldmodel.observation import Observation

    masks = {f"observation.{name.replace('_', '.', 1)}": mask for name, mask in present.items()}
    return Observation.of(senses or {key: tuple(value.shape[1:]) for key, value in values.items()}, values, masks)


def run(trainer, steps: int) -> list:
    """Train to so many control steps; the episodes that ended on the way."""
    ends = []
    while trainer.steps < steps:
        ends += trainer.step()
    return ends


def save(trainer, folder, keep: int = 99):
    """A checkpoint of a toy trainer, now."""
    from policies.storage.checkpoint import save_checkpoint

    return save_checkpoint(folder, spec(trainer), trainer.state_dict(), {}, keep)


def resume(path, trainer, warn=pytest.fail):
    """Bring a trainer to what a checkpoint saved."""
    from policies.storage.checkpoint import check_resumable, restore

    check_resumable(path)
    restore(path, trainer, warn)
    return trainer


def batch(model, size: int = 6, horizon: int = 3, seed: int = 0, dtype=torch.float32):
    """Random windows: the second terminates after one token, the third is cut there, the fourth never began."""
    from worldmodel.losses import Batch
    from worldmodel.observation import Observation
    from worldmodel.senses import is_image, stacked

    g, values = torch.Generator().manual_seed(seed), {}
    shapes = stacked(model.senses, len(model.config.vision.frame_lags))
    for key, shape in shapes.items():
        sizes = horizon + 1, size, *shape
        frames = torch.randint(0, 256, sizes, dtype=torch.uint8, generator=g) if is_image(key) else None
        values[key] = torch.randn(sizes, generator=g, dtype=dtype) if frames is None else frames
    token = torch.rand(horizon, size, model.points, generator=g, dtype=dtype) * 2 - 1
    reward, continues = torch.randn(horizon, size, generator=g, dtype=dtype), torch.ones(horizon, size, dtype=dtype)
    valid = torch.ones(horizon, size, dtype=dtype)
    continues[1:, 1], valid[2:, 1], valid[1:, 2], valid[:, 3] = 0, 0, 0, 0
    seen = model.preprocess(Observation.of(shapes, values))
    return Batch(seen, token, reward, continues, valid, token[0], torch.zeros(size, dtype=dtype))


TINY_KEYS = (
    *("model.latent=16", "model.group=4", "model.width=16", "model.bins=11", "model.precision=fp32"),
    *("learning.batch_size=8", "learning.horizon=2", "compile=false", "video=false"),
    *("planner.samples=8", "planner.policy_samples=2", "planner.elites=4", "planner.horizon=2"),
    *("seed_steps=60", "evaluation.episodes=2", "evaluation.every=400", "checkpoint.every=150"),
)
"""Keys of a command that make a run tiny."""


CHROMIUM = "/usr/bin/chromium"
TOYS = SimpleNamespace(
    tiny_keys=TINY_KEYS,
    Slide=Slide,
    slides=slides,
    token_settings=token_settings,
    tiny_config=tiny_config,
    tiny_model=tiny_model,
    trainer=trainer,
    spec=spec,
    run=run,
    save=save,
    resume=resume,
    observed=observed,
    batch=batch,
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def loggers():
    """Undoes what Hydra does where a command runs in this process: it disables all loggers, and all but errors."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs a command in this process, in an empty folder; gives its exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capfd.readouterr()
        try:
            getattr(importlib.import_module("configs.commands"), name)()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def toys():
    """The makers above, which a test cannot import (another installed package is also called `tests`)."""
    return TOYS


@pytest.fixture(scope="session")
def arm_checkpoint(tmp_path_factory):
    """An agent for so101-touch that has learned nothing."""
    return _untaught(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def untaught():
    """Makes a checkpoint in a folder, of an agent for so101-touch or another task that has learned nothing."""
    return _untaught


def _untaught(folder, task=None, **changes):
    from configs.runs.parts import build
    from configs.schema import TrainConfig
    from envs.settings import TaskConfig
    from policies.storage.checkpoint import save_checkpoint
    from worldmodel.settings import PlannerConfig

    planner = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    config = TrainConfig(
        task=task or TaskConfig("so101-touch"),
        model=tiny_config(token=token_settings(4)),
        planner=planner,
        compile="false",
        **changes,
    )
    parts = build(config)
    run(parts.trainer, 30 // parts.trainer.action_repeat)  # at random
    path = save_checkpoint(folder, parts.spec(), parts.trainer.state_dict(), {}, 1)
    parts.close()
    return path


class TwinProcess:
    """semagram-twin, up and running: `port()` is where LeRobot finds it, `folder`/twin.json its calibration."""

    START_S = 120.0  # a loaded machine

    def __init__(self, folder, *keys: str):
        self.folder, self.port_file, self.control = folder, folder / "port", folder / "port.control"
        self.port_file.unlink(missing_ok=True)  # left by one that was killed
        command = [sys.executable, "-m", "configs.commands", "twin", f"port_file={self.port_file}", *keys]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + self.START_S
        while not self.port_file.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "the twin does not start"
            time.sleep(0.02)

    def port(self) -> str:
        return self.port_file.read_text().strip()

    def stop(self, number: int = signal.SIGTERM) -> dict:
        """End it; its last line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=self.START_S)
        assert self.process.returncode == 0, err
        return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def start_twin():
    """Starts twins: start_twin(folder, *keys); those that still run in the end are killed."""
    twins = []

    def start(folder, *keys: str) -> TwinProcess:
        twins.append(TwinProcess(folder, *keys))
        return twins[-1]

    yield start
    for twin in twins:
        if twin.process.poll() is None:
            twin.process.kill()
            twin.process.communicate()


@pytest.fixture(scope="module")
def served(start_twin, tmp_path_factory):
    """A twin for a whole file of tests."""
    twin = start_twin(tmp_path_factory.mktemp("twin"))
    yield twin
    twin.stop()


@pytest.fixture
def twin(served):
    """The control channel of a twin that is in order, at rest, its torque off."""
    from sim.twin.control import TwinControl

    with TwinControl(served.control) as control:
        control.ask("mend")
        control.ask("pull", cable="power")
        control.ask("plug", cable="power")
        control.ask("reset")
        yield control
        control.ask("mend")


@pytest.fixture(scope="module")
def patient_driver():
    """LeRobot's driver polls for 50 ms; let them be 100 of its own time: on a loaded machine the twin gets no other."""
    import scservo_sdk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scservo_sdk.PortHandler, "getCurrentTime", lambda _: time.thread_time() * 500)
        yield


@pytest.fixture
def patient_gate(monkeypatch):
    """The gate's limits of time are tested elsewhere; a loaded machine breaks them."""
    import robot.arms

    strict = robot.arms.so101
    later = dict.fromkeys(("loop_s", "observation_age_s", "goal_age_s"), 60.0)
    monkeypatch.setattr(robot.arms, "so101", lambda *given: replace(strict(*given), **later))


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """Serves a checkpoint's planner in a thread, which saves the start of a process; returns its address."""
    from configs.arm.planning import planner_service
    from policies.planner_link.service import listening
    from policies.settings import GuidanceKeys

    with contextlib.ExitStack() as stack:

        def serve(checkpoint) -> str:
            service = planner_service(checkpoint, 0, "cpu", 1, True, GuidanceKeys())
            address = str(tmp_path_factory.mktemp("planner") / "planner.sock")
            thread = threading.Thread(target=service.serve, args=(stack.enter_context(listening(address)),))
            stack.callback(thread.join)
            stack.callback(service.close)
            thread.start()
            return address

        yield functools.cache(serve)


@pytest.fixture(scope="session")
def arms():
    """The module of the arm at the end of a wire."""
    return beside("wired_arm")


@pytest.fixture(scope="module")
def teletype():
    """The module of a terminal as a person has it."""
    return beside("teletype")


def beside(name: str):
    """A module of this folder, which a test cannot import by name."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def drawing():
    """Skips where MuJoCo itself can't draw."""
    from sim.renderer import choose_backend

    backend = choose_backend()
    code = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    environment = os.environ | {"MUJOCO_GL": backend}
    if backend == "disabled" or subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode:
        pytest.skip("nothing can be drawn on this machine")


@pytest.fixture(scope="session")
def browser():
    """Opens a page in Debian's Chromium: with browser(address) as view.

    In the end it has asked for nothing elsewhere, said nothing on the console, and is accessible, light and dark.
    """
    sync = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM}: not here (Debian: apt-get install chromium)")

    @contextlib.contextmanager
    def opened(address: str):
        quiet, said, asked = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"], [], []
        with sync.sync_playwright() as playwright:
            running = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
            view = running.new_page(viewport={"width": 1440, "height": 900})
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(str(error)))
            view.on("request", lambda request: asked.append(request.url))
            view.goto(address)
            yield view
            for _ in range(2):
                found = axe.run(view)
                assert found.violations_count == 0, found.generate_report()
                view.keyboard.press("t")
            running.close()
        assert said == [] and asked and all(url.startswith(address) for url in asked), (said, asked)

    return opened


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws without saying from where is the same each time."""
    torch.manual_seed(0)


@pytest.fixture
def generator():
    """A seeded generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model():
    """A tiny model of states (3,) and tokens (2,)."""
    return tiny_model()


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """The current folder holds packages of the same names as Semagram's."""
    for name in ("configs", "envs", "policies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
