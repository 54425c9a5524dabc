"""What the tests share: shapes and types checked while they run, seeded randomness, commands, twins, planners."""

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

import absl.logging
import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored, here and in all that a test starts
# dm_control logs through absl, which closes what it writes to, a test's captured stderr, when Hydra sets up logging.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

CHECKED = (
    *("worldmodel", "policies", "robot.modeling_semagram"),
    *("envs.benchmark.table", "envs.benchmark.figures", "envs.benchmark.results"),
)
"""Whose shapes the tests check: all that give any, but for films, which are tested with stand-ins for an agent."""
# An int is as good as a float, as it is to a static type checker.
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


CHROMIUM = "/usr/bin/chromium"


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def here(monkeypatch):
    """All environments of a training run are in this process."""
    from envs.make import make_vector

    monkeypatch.setattr("configs.runs.parts.make_vector", functools.partial(make_vector, processes=False))


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
    """The module of toys."""
    return beside("toys")


@pytest.fixture(scope="session")
def arm_checkpoint(tmp_path_factory, untaught):
    """An agent for so101-touch that has learned nothing."""
    return untaught(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def untaught(toys):
    """Makes a checkpoint in a folder, of an agent for so101-touch or another task that has learned nothing."""
    return functools.partial(_untaught, toys)


def _untaught(toys, folder, task=None, **changes):
    from configs.runs.parts import build
    from configs.schema import TrainConfig
    from envs.settings import TaskConfig
    from policies.storage.checkpoint import save_checkpoint
    from worldmodel.settings import PlannerConfig

    planner = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    config = TrainConfig(
        task=task or TaskConfig("so101-touch"),
        model=toys.tiny_config(token=toys.token_settings(4)),
        planner=planner,
        compile="false",
        **changes,
    )
    parts = build(config)
    toys.run(parts.trainer, 30 // parts.trainer.action_repeat)  # at random
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
    from robot.settings import ServeConfig

    with contextlib.ExitStack() as stack:

        def serve(checkpoint) -> str:
            service = planner_service(ServeConfig(checkpoint=str(checkpoint), seed=0))
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
def model(toys):
    """A tiny model of states (3,) and tokens (2,)."""
    return toys.tiny_model()


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """The current folder holds packages of the same names as Semagram's."""
    for name in ("configs", "envs", "policies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
