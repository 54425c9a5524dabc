"""Sweeps (`-m`): each member is a process of its own, so that what ends one leaves the others alone.

`python -m configs.sweep <process id of its parent> <command> <arguments>` is `python -m configs.commands <command>
<arguments>` that gets a SIGTERM when its parent ends (Linux).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from configs.arguments import quoted
from configs.command import SWEEPS, checked, plain
from configs.machine import own_card
from configs.reporting import Ended, asked, say
from robot.safety.stops import Stopped, handled

MEMBERS = "SEMAGRAM_MEMBERS"
"""Environment variable: a folder with a file for each member that runs on this machine, named by its process id."""
PATIENCE_S = 120
"""How long members may take to save a checkpoint."""


def started(name: str, words: Sequence[str], **streams) -> subprocess.Popen:
    """Start a command as a process that ends with this one."""
    command = [sys.executable, "-P", "-m", "configs.sweep", str(os.getpid()), name, *words]
    # In a group of its own: Ctrl-C reaches only us; we pass it on once.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, **streams)


def own_configs() -> list[str]:
    """Return the options that give the user's own folders of configs, to be passed on to members."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    return [f"--config-dir={part.path}" for part in sources if part.provider == "command-line"]


def play(name: str, folder: Path, device: object = None) -> dict:
    """Run the member that Hydra has composed, with its log.txt; return its result. Raises Ended if it fails."""
    from hydra.core.hydra_config import HydraConfig

    words = [*own_configs(), *HydraConfig.get().overrides.task, f"hydra.run.dir={quoted(folder)}"]
    room = os.environ | own_card(device, HydraConfig.get().job.num)
    began = time.monotonic()
    with open(folder / "log.txt", "ab") as log:
        process = started(name, words, stdout=subprocess.PIPE, stderr=log, env=room)
        mark = Path(os.environ.get(MEMBERS, folder)) / str(process.pid)
        try:
            mark.touch()
            out, _ = process.communicate()
        except KeyboardInterrupt:
            _stop(process, mark)
            say(f"{folder}: {last_line(folder / 'log.txt')}")  # which says how it goes on
            raise
        finally:
            _stop(process, mark)
    if code := process.returncode:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        line = f"{folder}: {how}: {last_line(folder / 'log.txt')}"
        say(line)
        raise Ended(line, max(code, 1))
    say(f"{folder}: done in {(time.monotonic() - began) / 60:.1f} min")
    return json.loads(out.splitlines()[-1])


def check_keys(config) -> None:
    """Check the keys of a member of a sweep, as its command will do. Raises UserError.

    `config`: as Hydra composes it. What recordings say is left to the member.
    """
    from omegaconf import OmegaConf

    from configs import commands
    from configs.runs.tracking import check_installed
    from configs.train import in_own_folder
    from worldmodel.strict import ConfigError

    command = getattr(commands, config.hydra.job.config_name)
    keys = plain(OmegaConf.masked_copy(config, [name for name in config if name != "hydra"]))
    if command is not commands.train:
        checked(resolve_name(command.keys), keys)
    elif in_own_folder(keys["resume"]):
        raise ConfigError(f"resume={keys['resume']}: not with -m; a run that is resumed goes on in its own folder")
    elif not keys["data"]:
        check_installed(checked(resolve_name("configs.schema:TrainConfig"), keys).track)


def averages(done: Sequence[tuple[Sequence[str], float]]) -> list[str]:
    """Return a line for each setting of a sweep: what differs but for the seed; mean and spread of the return, n."""
    settings = [[word for word in words if not word.startswith("seed=")] for words, _ in done]
    shared = set.intersection(*map(set, settings)) if settings else set()
    means: dict[str, list[float]] = {}
    for words, (_, value) in zip(settings, done, strict=True):
        means.setdefault(" ".join(word for word in words if word not in shared) or "all runs", []).append(value)
    return [
        f"{name}: mean return {mean(each):.1f}"
        + (f", standard deviation {stdev(each):.1f}" if len(each) > 1 else "")
        + f" (n={len(each)})"
        for name, each in means.items()
    ]


@contextmanager
def stoppable(words: Sequence[str]) -> Iterator[None]:
    """Have SIGTERM and SIGHUP (a closed terminal) end the program as Ctrl-C does, with everything it has started.

    `words`: the command's arguments. If joblib or Ray runs the members of its sweep, which would kill them as it ends
    its workers, those on this machine are noted in a folder, and first save a checkpoint and end. How a sweep that was
    stopped goes on is said.
    """
    parallel = any(word in ("hydra/launcher=joblib", "hydra/launcher=ray") for word in words)
    asked.clear()
    with TemporaryDirectory() if parallel else nullcontext("") as folder:

        def stop(number: int, _frame) -> None:
            asked.append(number)
            if parallel:
                _end(Path(folder))
            raise Stopped(number)

        if parallel:
            os.environ[MEMBERS] = folder
        try:
            with handled(stop):
                yield
        except KeyboardInterrupt:
            if {*SWEEPS} & {*words}:
                say(_going_on(words))
            raise
        finally:
            os.environ.pop(MEMBERS, None)


def _going_on(words: Sequence[str]) -> str:
    """Return how a sweep with these arguments goes on after a stop."""
    if "resume=auto" in words and any(word.startswith("hydra.sweep.subdir=") for word in words):
        return "the same command goes on with this sweep"
    return "each run that was begun goes on by itself, as said; resume=auto would go on with all (docs/cluster.md)"


def _stop(process: subprocess.Popen, mark: Path) -> None:
    """End a member, unless that was done, and wait until it has ended."""
    if _claimed(mark) and process.poll() is None:
        process.terminate()
    process.wait()


def _end(folder: Path) -> None:
    """End the members noted in a folder, and wait until they have, for PATIENCE_S at most."""
    ending = [int(mark.name) for mark in folder.iterdir() if _claimed(mark)]
    for pid in ending:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in ending) and time.monotonic() < until:
        time.sleep(0.1)


def _claimed(mark: Path) -> bool:
    """Remove a member's file. Returns whether it was there: the same signal twice would end a run at once."""
    try:
        mark.unlink()
    except FileNotFoundError:
        return False
    return True


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    if not log.exists():
        return "it was not begun"
    lines = log.read_bytes()[-2000:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


if __name__ == "__main__":
    from configs import commands
    from envs.vector import follow

    follow(int(sys.argv.pop(1)), signal.SIGTERM)
    getattr(commands, sys.argv.pop(1))()
