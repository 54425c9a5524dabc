"""The official TD-MPC2 as a peer: its Python environment, its runs, and a process that times it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from configs.schema import PeerConfig
from configs.strict import ConfigError
from configs.suites.jobs import Job
from envs.benchmark.anchors import canonical
from envs.vector import THREADS

LAUNCHER = Path(__file__).with_name("tdmpc2_launcher.py")
PINS = ("torch==2.7.1", "tensordict==0.8.3", "torchrl==0.8.1", "gymnasium==0.29.1", "hydra-core==1.3.2", "termcolor")
SAME = ("numpy", "mujoco", "dm-control")  # at our versions, so that both learn in the same physics
READY = "ready"


def check(peer: PeerConfig) -> Path:
    """Return the peer's checkout as an absolute path.

    Raises ConfigError if `peer.path` is not a checkout, or `peer.python` not an interpreter.
    """
    path = Path(peer.path)
    if not (path / "tdmpc2" / "tdmpc2.py").is_file():
        raise ConfigError(f"peer.path={path}: no checkout of TD-MPC2 (it has no tdmpc2/tdmpc2.py)")
    if peer.python and not shutil.which(peer.python):
        raise ConfigError(f"peer.python={peer.python}: not an interpreter")
    return path.resolve()


def interpreter(peer: PeerConfig) -> str:
    """Return a Python interpreter with the peer's dependencies: `peer.python` or one in ~/.cache/semagram/tdmpc2.

    The latter (under XDG_CACHE_HOME, if set) is created with uv, and recreated only if the required packages have
    changed. Raises ConfigError if that fails.
    """
    if peer.python:
        return peer.python
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "semagram" / peer.name
    python = folder / "bin" / "python"
    needed = [*PINS, *(f"{name}=={version(name)}" for name in SAME), "setuptools"]
    ready, listed = folder / READY, "".join(f"{package}\n" for package in needed)
    if ready.exists() and ready.read_text() == listed:
        return str(python)
    uv = shutil.which("uv")
    if uv is None:
        raise ConfigError("peer.python=: uv is not installed; give the interpreter of an environment that has its pins")
    print(f"making an environment for {peer.name} in {folder}: {', '.join(PINS)}", file=sys.stderr)
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *needed],
    ):
        made = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if made.returncode:
            said = made.stderr.strip().splitlines() or ["it said nothing"]
            raise ConfigError(f"{' '.join(command[:3])}: {said[-1]}")
    ready.write_text(listed)
    return str(python)


@dataclass(frozen=True)
class PeerJob(Job):
    """A run of the peer. It saves no checkpoints, so a stopped run starts over."""

    python: str = sys.executable
    checkout: str = ""

    @property
    def name(self) -> str:
        """The run's name in messages, which includes the agent's."""
        return f"{self.agent} {super().name}"

    def command(self) -> list[str]:
        """Return the launcher's command line for `train`."""
        keys = [f"task={canonical(self.task)}", f"seed={self.seed}", f"steps={self.steps}"]
        return [
            self.python,
            str(LAUNCHER),
            self.checkout,
            "train",
            *keys,
            f"out={self.folder}",
            f"parent={os.getpid()}",
        ]


def job(peer: PeerConfig, task: str, seed: int, steps: int, folder: Path) -> PeerJob:
    """Return a run of the peer. Raises ConfigError if the peer cannot be run."""
    checkout, python = str(check(peer)), interpreter(peer)
    return PeerJob(peer.name, task, seed, steps, folder, python=python, checkout=checkout)


class Theirs:
    """Times the peer, which runs in a process with `threads` threads; `log` takes its stderr."""

    def __init__(self, peer: PeerConfig, task: str, threads: int, log: Path):
        checkout, python = check(peer), interpreter(peer)
        keys = [f"task={canonical(task)}", "seed=1", f"parent={os.getpid()}"]
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [python, str(LAUNCHER), str(checkout), "serve", *keys],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=os.environ | dict.fromkeys(THREADS, str(threads)),
                text=True,
            )

    def time(self, what: str, count: int) -> list[float]:
        """Time `count` repetitions of `what`: "update", "plan" or "decision". Returns the seconds of each.

        Raises ConfigError if the process has ended.
        """
        return self._ask({"time": what, "count": count})["seconds"]

    def cost(self) -> dict:
        """Return the GFLOP of an update and of a plan, and the number of parameters."""
        return self._ask({"tell": "cost"})

    def close(self) -> None:
        """Kill the process and wait for it to end."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, question: dict) -> dict:
        asked, said = self.process.stdin, self.process.stdout
        assert asked is not None and said is not None
        try:
            print(json.dumps(question), file=asked, flush=True)
            return json.loads(said.readline())
        except (OSError, json.JSONDecodeError) as error:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            raise ConfigError(f"the peer ended: {lines[-1] if lines else 'it said nothing'} ({self.log})") from error
