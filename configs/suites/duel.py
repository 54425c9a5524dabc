"""Time our agent and the peer in alternation in one session, so that other load on the machine affects both."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.schema import SHARED, BenchConfig, TrainConfig
from configs.suites.jobs import device
from configs.suites.peers import Theirs
from configs.suites.stopwatch import Ours
from envs.benchmark.suites import SUITES
from envs.settings import TaskConfig
from policies.storage.code_version import commit

OURS_EACH = 10  # repetitions of ours for each of theirs, which takes many times as long


def alternate(ours: Ours, theirs: Theirs, what: str, count: int) -> tuple[list[float], list[float]]:
    """Time the operation `what` for both agents in alternation, after a warm-up. Returns ours, theirs.

    Each is a list of seconds: `count` repetitions of theirs, OURS_EACH times as many of ours.
    """
    mine, its = [], []
    ours.time(what, 2)
    theirs.time(what, 1)
    for _ in range(count):
        its += theirs.time(what, 1)
        mine += ours.time(what, OURS_EACH)
    return mine, its


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return mean, median and 99th percentile in milliseconds."""
    values = 1000 * np.array(seconds)
    middle, high = np.percentile(values, (50, 99))
    return {"mean": round(float(values.mean()), 3), "p50": round(float(middle), 3), "p99": round(float(high), 3)}


def duel(config: BenchConfig, folder: Path) -> dict:
    """Time whole decisions (plan, environment step, update) of both agents on the first task. Returns the comparison.

    That is `peer.decisions` of the peer, on all cores, and OURS_EACH times as many of ours, on `threads` threads.
    """
    task = TaskConfig((config.tasks or list(SUITES[config.suite].tasks))[0])
    alone = {"envs": 1, "demonstrations": 0, "takeover": 0.0}  # a single environment, driven by the agent only
    own = TrainConfig(task=task, **{name: getattr(config, name) for name in SHARED} | alone)
    cores = os.cpu_count() or 1
    theirs = Theirs(config.peer, task.name, cores, folder / "peer.txt")
    ours = None
    try:
        theirs.time("plan", 1)  # load it before ours starts; a mistake shows at once
        ours = Ours(own)
        mine, its = alternate(ours, theirs, "decision", config.peer.decisions)
        costs = {config.agent: ours.cost(), config.peer.name: theirs.cost()}
    finally:
        theirs.close()
        if ours:
            ours.close()
    means = {config.agent: float(np.mean(mine)), config.peer.name: float(np.mean(its))}
    ratio = means[config.peer.name] / means[config.agent]
    print(
        f"{task.name}: {config.peer.name} {1000 * means[config.peer.name]:.0f} ms a decision on {cores} threads, "
        f"{config.agent} {1000 * means[config.agent]:.1f} ms on {config.threads}: {ratio:.0f} times faster",
        file=sys.stderr,
    )
    return {
        "task": task.label,
        "seconds_per_decision": {name: round(value, 5) for name, value in means.items()},
        "seconds_per_env_step": {name: round(value / task.repeat, 6) for name, value in means.items()},
        "times_faster": round(ratio, 2),
        "decision_ms": {config.agent: milliseconds(mine), config.peer.name: milliseconds(its)},
        "decisions": {config.agent: len(mine), config.peer.name: len(its)},
        "threads": {config.agent: config.threads, config.peer.name: cores},
        "cost": costs,
        "device": device(config.device),
        "commit": commit(),
    }
