"""The official TD-MPC2 as a peer: its Python environment, and a process that times it or trains.

    python tests/bench/peers.py peer=<checkout> task=walker-walk seed=1 steps=100000 out=<folder> [python=...]

trains it, and leaves summary.json and metrics.csv in the folder, as a run of ours does. Not a test.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from envs.benchmark.results import canonical
from envs.vector import THREADS
from worldmodel.strict import ConfigError

LAUNCHER = Path(__file__).with_name("tdmpc2_launcher.py")
PINS = ("torch==2.7.1", "tensordict==0.8.3", "torchrl==0.8.1", "gymnasium==0.29.1", "hydra-core==1.3.2", "termcolor")
SAME = ("numpy", "mujoco", "dm-control")  # at our versions, so that both learn in the same physics
READY = "ready"


@dataclass(frozen=True)
class Peer:
    """TD-MPC2 from the checkout at `path`; `python`: an interpreter with its dependencies, else one is made."""

    path: str
    python: str = ""


def check(peer: Peer) -> Path:
    """Return the peer's checkout as an absolute path.

    Raises ConfigError if `path` is not a checkout, or `python` not an interpreter.
    """
    path = Path(peer.path)
    if not (path / "tdmpc2" / "tdmpc2.py").is_file():
        raise ConfigError(f"peer={path}: no checkout of TD-MPC2 (it has no tdmpc2/tdmpc2.py)")
    if peer.python and not shutil.which(peer.python):
        raise ConfigError(f"python={peer.python}: not an interpreter")
    return path.resolve()


def interpreter(peer: Peer) -> str:
    """Return a Python interpreter with the peer's dependencies: `peer.python` or one in ~/.cache/semagram/tdmpc2.

    The latter (under XDG_CACHE_HOME, if set) is created with uv, and recreated only if the required packages have
    changed. Raises ConfigError if that fails.
    """
    if peer.python:
        return peer.python
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "semagram" / "tdmpc2"
    python = folder / "bin" / "python"
    needed = [*PINS, *(f"{name}=={version(name)}" for name in SAME), "setuptools"]
    ready, listed = folder / READY, "".join(f"{package}\n" for package in needed)
    if ready.exists() and ready.read_text() == listed:
        return str(python)
    uv = shutil.which("uv")
    if uv is None:
        raise ConfigError("python=: uv is not installed; give the interpreter of an environment that has its pins")
    print(f"making an environment for tdmpc2 in {folder}: {', '.join(PINS)}", file=sys.stderr)
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


class Theirs:
    """Times the peer, which runs in a process with `threads` threads; `log` takes its stderr."""

    def __init__(self, peer: Peer, task: str, threads: int, log: Path):
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


def main() -> None:
    """Train TD-MPC2 once."""
    keys = {"peer": "", "python": "", "seed": "1"} | dict(word.split("=", 1) for word in sys.argv[1:])
    peer = Peer(keys["peer"], keys["python"])
    where = [f"task={canonical(keys['task'])}", f"seed={keys['seed']}", f"steps={keys['steps']}", f"out={keys['out']}"]
    command = [interpreter(peer), str(LAUNCHER), str(check(peer)), "train", *where, f"parent={os.getpid()}"]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
