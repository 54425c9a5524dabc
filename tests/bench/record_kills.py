"""Kills a process that records, at any moment, again and again; what it had called safe must be there, and readable.

    python tests/bench/record_kills.py FOLDER [KILLS]

The process records short episodes with LeRobot's own writer, merges every few, and says over a pipe which are safe.
After each kill -9 the dataset is read by LeRobot and compared with what was recorded. The last line is JSON.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from robot.recording import MEASURED, EpisodeInfo, Parts

HZ, FRAMES, AT_ONCE, MOST = 30, 6, 2, 4  # episodes between merges, and in a dataset
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]},
    MEASURED: {"dtype": "float64", "shape": (1,), "names": None},
}


def parts(dataset: Path) -> Parts:
    return Parts(dataset, FEATURES, HZ, "arm")


def value(episode: int, frame: int) -> float:
    return episode + frame / 100


def record(dataset: Path, say) -> None:
    """Record until there are MOST episodes, merging every AT_ONCE."""
    while True:
        with parts(dataset) as store:
            for _ in range(AT_ONCE):
                number = store.finished
                with store.episode() as draft:
                    for frame in range(FRAMES):
                        joints = dict.fromkeys(("a.pos", "b.pos"), value(number, frame))
                        draft.add(joints, joints, "wave", frame / HZ, None)
                    draft.save(EpisodeInfo(number, True, HZ, 0, "script"))
                say(number)
            store.merge()
            if store.merged >= MOST:
                return


def wrong(dataset: Path, safe: int) -> str:
    """What is wrong with the dataset after a kill, when `safe` episodes were called so; empty: nothing."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if dataset.exists():
        LeRobotDataset("local/x", root=dataset)  # it is readable as the kill left it
    with parts(dataset) as store:
        finished = store.finished
        store.merge()
    if finished < safe:
        return f"{safe} were safe, {finished} are there"
    if not finished:
        return ""
    read = LeRobotDataset("local/x", root=dataset)
    rows = read.hf_dataset.with_format("numpy")
    wanted = [value(episode, frame) for episode in range(finished) for frame in range(FRAMES)]
    if read.num_episodes != finished or not np.allclose(np.stack(rows["action"])[:, 0], wanted, atol=1e-5):
        return f"{read.num_episodes} episodes of {finished}, or other steps"
    return ""


def parent() -> None:
    """For each dataset named on stdin, fork a process that records it: its number, those safe, its exit code.

    A process that has imported LeRobot and done nothing else: with threads, a fork may wait for ever for a lock.
    """
    logging.disable(logging.WARNING)
    import lerobot.datasets.aggregate
    import lerobot.datasets.lerobot_dataset  # noqa: F401

    for dataset in sys.stdin:
        child = os.fork()
        if not child:
            record(Path(dataset.strip()), lambda number: print("safe", number + 1, flush=True))
            os._exit(0)
        print("child", child, flush=True)
        print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def kill(forks: subprocess.Popen, dataset: Path, seconds: float) -> tuple[int, bool]:
    """Record in a process and kill it after so long. The episodes it called safe, and whether it was still at it."""
    print(dataset, file=forks.stdin, flush=True)
    word, number = forks.stdout.readline().split()
    safe, child = 0, int(number)
    assert word == "child", word
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(child, 9)
    while word != "end":
        word, number = forks.stdout.readline().split()
        safe = int(number) if word == "safe" else safe
    if int(number) > 0:
        raise RuntimeError("the recording failed by itself")
    return safe, int(number) < 0


def killed(folder: Path, kills: int) -> dict:
    """Kill so often; what was found after it."""
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['parent']()"]
    rng, dataset, safe = np.random.default_rng(0), folder / "killed", 0
    began = time.monotonic()
    record(folder / "whole", lambda number: None)
    longest = time.monotonic() - began
    found = {"kills": kills, "while_recording": 0, "lost": [], "unreadable": []}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        for number in range(kills):
            new, hit = kill(forks, dataset, rng.uniform(0, longest))
            found["while_recording"] += hit
            safe = max(safe, new)
            try:
                if problem := wrong(dataset, safe):
                    found["lost"].append(f"kill {number}: {problem}")
            except Exception as error:  # whatever LeRobot says of a broken dataset
                found["unreadable"].append(f"kill {number}: {error!r}")
            print(f"kill {number + 1} of {kills}: {safe} safe", file=sys.stderr)
            if found["lost"] or found["unreadable"] or safe >= MOST - AT_ONCE:
                shutil.rmtree(dataset, ignore_errors=True)
                shutil.rmtree(parts(dataset).folder, ignore_errors=True)
                safe = 0
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)))
