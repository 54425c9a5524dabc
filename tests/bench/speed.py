"""Prints what an update, a plan and a decision (plan, environment step, updates) cost; TD-MPC2's beside them if asked.

    python tests/bench/speed.py [task=cheetah-run] [count=100] [peer=<checkout of TD-MPC2>] [python=<its interpreter>]

Milliseconds, compiled and not, and GFLOP. Ours runs on one thread, TD-MPC2 on every core, in alternation, so that other
load affects both. The last line is one JSON object. Not a test.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from peers import Peer, Theirs
from stopwatch import Ours, milliseconds

from configs.schema import TrainConfig
from envs.settings import TaskConfig

KINDS = ("update", "plan", "decision")
WARM_UP = 10
OURS_EACH = 10  # repetitions of ours for each of theirs, which takes many times as long


def main() -> None:
    """Measure, print, and print it as JSON."""
    keys = {"task": "cheetah-run", "count": "100", "peer": "", "python": ""}
    keys |= dict(pair.split("=", 1) for pair in sys.argv[1:])
    task, count = TaskConfig(keys["task"]), int(keys["count"])
    result, costs = {}, {}
    for name, compiled in (("compiled", "auto"), ("not compiled", "false")):
        ours = Ours(TrainConfig(task=task, compile=compiled))
        costs[name] = ours.cost()
        for kind in KINDS:
            ours.time(kind, WARM_UP)
            show(result, name, kind, ours.time(kind, count), costs[name])
        ours.close()
    if keys["peer"]:
        beside(result, task, keys, max(count // 10, 3))
    print(json.dumps({"task": task.label, "parameters": costs["compiled"]["parameters"], **result}))


def beside(result: dict, task: TaskConfig, keys: dict, count: int) -> None:
    """Add TD-MPC2's figures, and ours that were taken between them."""
    log = Path(tempfile.mkdtemp()) / "peer.txt"
    theirs = Theirs(Peer(keys["peer"], keys["python"]), task.name, os.cpu_count() or 1, log)
    ours = Ours(TrainConfig(task=task))
    cost = theirs.cost()
    for kind in KINDS:
        mine, its = [], []
        ours.time(kind, 2)
        theirs.time(kind, 1)
        for _ in range(count):
            its += theirs.time(kind, 1)
            mine += ours.time(kind, OURS_EACH)
        show(result, "compiled, in alternation", kind, mine, ours.cost())
        show(result, "tdmpc2", kind, its, cost)
    theirs.close()
    ours.close()


def show(result: dict, name: str, kind: str, seconds: list[float], cost: dict) -> None:
    """Print one line and keep its numbers."""
    ms, gflop = milliseconds(seconds), cost["gflop"].get(kind, sum(cost["gflop"].values()))
    result.setdefault(name, {})[kind] = {**ms, "gflop": gflop, "gflop_per_second": round(1000 * gflop / ms["p50"], 1)}
    print(f"{name:<26}{kind:<8}{ms['p50']:>9.2f} ms (p99 {ms['p99']:.2f})  {gflop:.3f} GFLOP")


if __name__ == "__main__":
    main()
