"""Times our agent and TD-MPC2 in alternation in one session, so that other load on the machine affects both.

    python tests/bench/duel.py peer=<checkout of TD-MPC2> [python=<its interpreter>] [decisions=20] [<our keys> ...]

Whole decisions (plan, environment step, update): TD-MPC2 on every core, ours, with semagram-train's keys, on `threads`.
The last line is one JSON object. Not a test.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from peers import Peer, Theirs
from stopwatch import Ours

from configs.command import composed
from configs.schema import TrainConfig
from envs.benchmark.results import device
from policies.storage.versions import commit
from worldmodel.strict import build

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


def main() -> None:
    """Measure, and print it as JSON."""
    own = {"peer": "", "python": "", "decisions": "20"}
    given = dict(word.split("=", 1) for word in sys.argv[1:] if word.partition("=")[0] in own)
    words = [word for word in sys.argv[1:] if word.partition("=")[0] not in own]
    own |= given
    config = build(TrainConfig, composed("train", words))
    task, cores = config.task, os.cpu_count() or 1
    theirs = Theirs(Peer(own["peer"], own["python"]), task.name, cores, Path(tempfile.mkdtemp()) / "peer.txt")
    ours = None
    try:
        theirs.time("plan", 1)  # load it before ours starts; a mistake shows at once
        ours = Ours(config)
        mine, its = alternate(ours, theirs, "decision", int(own["decisions"]))
        costs = {"semagram": ours.cost(), "tdmpc2": theirs.cost()}
    finally:
        theirs.close()
        if ours:
            ours.close()
    seconds = {"semagram": float(np.mean(mine)), "tdmpc2": float(np.mean(its))}
    result = {
        "task": task.label,
        "seconds_per_decision": {name: round(value, 5) for name, value in seconds.items()},
        "seconds_per_env_step": {name: round(value / task.repeat, 6) for name, value in seconds.items()},
        "times_faster": round(seconds["tdmpc2"] / seconds["semagram"], 2),
        "decision_ms": {"semagram": milliseconds(mine), "tdmpc2": milliseconds(its)},
        "decisions": {"semagram": len(mine), "tdmpc2": len(its)},
        "threads": {"semagram": config.threads, "tdmpc2": cores},
        "cost": costs,
        "device": device(config.device),
        "commit": commit(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
