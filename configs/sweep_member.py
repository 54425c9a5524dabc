"""A member of a sweep (`-m`) as a process of its own: what ends one leaves the others alone.

`python -m configs.sweep_member <process id of its parent> <command> <arguments>` is `python -m configs.<command>` that
gets a SIGTERM when its parent ends (Linux).
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.arguments import quoted
from configs.reporting import Ended, say

MEMBERS = "SEMAGRAM_MEMBERS"
"""Environment variable: a folder with a file for each member that runs on this machine, named by its process id."""
PATIENCE_S = 120
"""How long members may take to save a checkpoint."""


def play(name: str, folder: Path) -> dict:
    """Run the member that Hydra has just composed, with what it says in log.txt in its folder. Returns its result.

    Raises Ended if it fails. On a stop signal it is ended first.
    """
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get()
    places = [f"--config-dir={part.path}" for part in chosen.runtime.config_sources if part.provider == "command-line"]
    words = [*chosen.overrides.task, f"hydra.run.dir={quoted(folder)}"]
    started = time.monotonic()
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "configs.sweep_member", str(os.getpid()), name, *places, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            process_group=0,  # Ctrl-C reaches only us; we pass it on once
        )
        mark = Path(os.environ.get(MEMBERS, folder)) / str(process.pid)
        try:
            mark.touch()
            out, _ = process.communicate()
        finally:
            if _claimed(mark) and process.poll() is None:
                process.terminate()
            process.wait()
    if process.returncode:
        line = f"{folder}: {_ended(process.returncode)}: {last_line(folder / 'log.txt')}"
        say(line)
        raise Ended(line, max(process.returncode, 1))
    say(f"{folder}: done in {(time.monotonic() - started) / 60:.1f} min")
    return json.loads(out.splitlines()[-1])


def end_all() -> None:
    """Have all members of other processes save a checkpoint and end; joblib would kill them as it ends its workers."""
    told = [int(mark.name) for mark in Path(os.environ[MEMBERS]).iterdir() if _claimed(mark)]
    for pid in told:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in told) and time.monotonic() < until:
        time.sleep(0.1)


def _claimed(mark: Path) -> bool:
    """Remove a member's file. Returns whether it was there: the same signal twice would end a run at once."""
    try:
        mark.unlink()
    except FileNotFoundError:
        return False
    return True


def _ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    if not log.exists():
        return "it was not begun"
    lines = log.read_bytes()[-2000:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


if __name__ == "__main__":
    from envs.vector import follow

    follow(int(sys.argv.pop(1)), signal.SIGTERM)
    importlib.import_module(f"configs.{sys.argv.pop(1)}").main()
