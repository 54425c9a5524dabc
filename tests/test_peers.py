"""Laws of the peer's side: its checkout is changed only while it is read, and its end is told in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.schema import PeerConfig
from configs.strict import ConfigError
from configs.suites import peers, tdmpc2_launcher
from configs.suites.duel import OURS_EACH, alternate, milliseconds
from configs.suites.peers import Theirs, check, interpreter
from configs.suites.stopwatch import Ours
from policies.tokens.curves import Curve
from worldmodel.frames import FrameHistory
from worldmodel.observation import Observation
from worldmodel.settings import TokenConfig

ANSWERING = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"seconds": [0.5] * asked["count"]} if "time" in asked else {"gflop": {"update": 1, "plan": 2}}
    print(json.dumps(answer), flush=True)
"""
DYING = "import sys; sys.exit('no module named torch')"


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout, with two modules."""
    root = tmp_path / "checkout" / "tdmpc2"
    root.mkdir(parents=True)
    (root / "tdmpc2.py").write_text("import part\nDEVICE = 'cuda:0'\nadam = dict(capturable=True, lr=1)\n")
    (root / "part.py").write_text("DEVICE = 'cuda:0'\n")
    return root.parent


@pytest.fixture
def stand_in(tmp_path):
    """Makes an interpreter that runs `code` whatever it is told to run."""

    def make(code):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return str(path)

    return make


def test_its_source_is_changed_as_it_is_imported_and_not_on_disk(checkout):
    before = {path: path.read_text() for path in checkout.rglob("*.py")}
    code = (
        "import json, sys; from pathlib import Path; import tdmpc2_launcher;"
        "tdmpc2_launcher.open_checkout(Path('tdmpc2').resolve()); import tdmpc2, part, colorsys;"
        "print(json.dumps([tdmpc2.DEVICE, part.DEVICE, tdmpc2.adam, colorsys.__spec__.cached]))"
    )
    place = os.environ | {"PYTHONPATH": str(Path(tdmpc2_launcher.__file__).parent)}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=checkout, env=place)
    *changed, cached = json.loads(shown.stdout)
    assert changed == ["cpu", "cpu", {"capturable": False, "lr": 1}]
    assert cached  # everything else is imported as always
    assert {path: path.read_text() for path in checkout.rglob("*") if path.is_file()} == before


def test_what_is_no_checkout_or_no_interpreter_is_refused(checkout, tmp_path):
    assert check(PeerConfig("tdmpc2", str(checkout))) == checkout
    with pytest.raises(ConfigError, match=r"^peer\.python=python9: not an interpreter$"):
        check(PeerConfig("tdmpc2", str(checkout), "python9"))
    with pytest.raises(ConfigError, match="no checkout of TD-MPC2"):
        check(PeerConfig("tdmpc2", str(tmp_path)))


def test_an_environment_is_made_once_for_the_same_packages(monkeypatch, tmp_path):
    ran = []

    def fake(command, **rest):
        ran.append(command)
        (tmp_path / "semagram" / "tdmpc2").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peers.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(peers.subprocess, "run", fake)
    peer = PeerConfig("tdmpc2", "x")
    python = interpreter(peer)
    assert python == str(tmp_path / "semagram" / "tdmpc2" / "bin" / "python")
    assert {"torch==2.7.1", "tensordict==0.8.3", "torchrl==0.8.1"} < set(ran[1])
    assert interpreter(peer) == python
    assert len(ran) == 2
    monkeypatch.setattr(peers, "PINS", ("torch==2.7.2",))
    assert interpreter(peer) == python
    assert "torch==2.7.2" in ran[3]
    assert interpreter(PeerConfig("tdmpc2", "x", "python9")) == "python9"


@pytest.mark.parametrize(("said", "told"), [("", "it said nothing"), ("much\nno such package\n", "no such package")])
def test_an_environment_that_is_not_made_says_why(monkeypatch, tmp_path, said, told):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peers.shutil, "which", lambda name: f"/bin/{name}")
    ended = subprocess.CompletedProcess([], -9, "", said)
    monkeypatch.setattr(peers.subprocess, "run", lambda command, **rest: ended)
    with pytest.raises(ConfigError, match=f"^/bin/uv venv --quiet: {told}$"):
        interpreter(PeerConfig("tdmpc2", "x"))


def test_without_uv_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="uv is not installed"):
        interpreter(PeerConfig("tdmpc2", "x"))


def test_its_seconds_come_in_alternation_with_ours(checkout, stand_in, tmp_path):
    theirs = Theirs(PeerConfig("tdmpc2", str(checkout), stand_in(ANSWERING)), "cup-catch", 2, tmp_path / "log")
    asked = []

    class Mine:
        def time(self, what, count):
            asked.append((what, count))
            return [0.01] * count

    mine, its = alternate(Mine(), theirs, "plan", 3)
    assert (mine, its) == ([0.01] * 3 * OURS_EACH, [0.5] * 3)
    assert asked == [("plan", 2)] + [("plan", OURS_EACH)] * 3
    assert theirs.cost()["gflop"] == {"update": 1, "plan": 2}
    assert milliseconds(its) == {"mean": 500.0, "p50": 500.0, "p99": 500.0}
    theirs.close()
    assert theirs.process.returncode is not None


def test_its_end_is_told_with_its_last_words(checkout, stand_in, tmp_path):
    theirs = Theirs(PeerConfig("tdmpc2", str(checkout), stand_in(DYING)), "cup-catch", 2, tmp_path / "log")
    with pytest.raises(ConfigError, match="the peer ended: no module named torch"):
        theirs.time("plan", 1)
    theirs.close()


def test_our_stopwatch_leaves_a_plan_where_the_next_one_is_made():
    class Elsewhere(torch.Tensor):
        """On a device that this machine does not have."""

        device = torch.device("meta")

    curve, ours = Curve.of_token(TokenConfig(2, 2, 1), 2), Ours.__new__(Ours)
    plan = SimpleNamespace(tokens=torch.zeros(3, 1, curve.size).as_subclass(Elsewhere))
    planner = SimpleNamespace(plan=lambda *_: plan)
    state = "observation.state"
    episodes = SimpleNamespace(now=Observation.of({state: (3,)}, {state: torch.zeros(1, 3)}))
    ours.trainer = SimpleNamespace(episodes=episodes, agent=SimpleNamespace(planner=planner), generator=None)
    ours.parts, ours.frames, ours.memory = SimpleNamespace(curve=curve), FrameHistory((0,)), None
    assert len(ours.time("plan", 2)) == 2
    assert ours.memory.mean.is_meta and ours.memory.valid.is_meta


@pytest.mark.parametrize("task", ["ball_in_cup-catch", "ball-in-cup-catch", "cup-catch"])
def test_its_run_goes_by_the_published_name_of_the_task(checkout, tmp_path, task):
    peer = PeerConfig("tdmpc2", str(checkout), sys.executable)
    job = peers.job(peer, task, 3, 100, tmp_path / "run")
    assert (job.task, job.agent, job.name) == (task, "tdmpc2", f"tdmpc2 {task} seed 3")
    python, launcher, root, *keys = job.command()
    assert (python, Path(launcher).name, root) == (sys.executable, "tdmpc2_launcher.py", str(checkout))
    parent = f"parent={os.getpid()}"
    assert keys == ["train", "task=cup-catch", "seed=3", "steps=100", f"out={tmp_path / 'run'}", parent]
