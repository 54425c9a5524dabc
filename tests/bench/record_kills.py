"""Kills a process that records, at any moment, again and again; what it had called safe must be there, and readable.

    python tests/bench/record_kills.py FOLDER [KILLS]

The process records short episodes with LeRobot's own writer, merges every few, and says over a pipe which are safe.
After each kill -9 the dataset is read by LeRobot and compared with what was recorded. The last line is JSON.
"""

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

HZ, FRAMES, AT_ONCE, MOST = 30, 6, 2, 8  # episodes between merges, and in a dataset
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
                        seen = dict.fromkeys(("a.pos", "b.pos"), value(number, frame))
                        draft.add(seen, seen, "wave", frame / HZ, None)
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


def kill(dataset: Path, seconds: float) -> tuple[int, bool]:
    """Record in a process and kill it after so long. The episodes it called safe, and whether it was still at it.

    A process of its own, not a fork: one of a process with threads may wait for ever for a lock.
    """
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['child']({str(dataset)!r})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.read(1)  # it has imported everything
        time.sleep(seconds)
        process.kill()
        safe = max(process.stdout.read(), default=0)
    if process.returncode > 0:
        raise RuntimeError("the recording failed by itself")
    return safe, process.returncode < 0


def child(dataset: str) -> None:
    """Record, and write a byte for each episode that is safe: how many there are."""
    imported()
    os.write(1, bytes(1))
    record(Path(dataset), lambda number: os.write(1, bytes([number + 1])))


def imported() -> None:
    """Import what takes long."""
    logging.disable(logging.WARNING)
    import lerobot.datasets.aggregate
    import lerobot.datasets.lerobot_dataset  # noqa: F401


def main(folder: Path, kills: int) -> None:
    imported()
    rng, dataset, safe = np.random.default_rng(0), folder / "killed", 0
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    record(folder / "whole", lambda number: None)
    longest = time.monotonic() - began
    lost, unreadable, hit = [], [], 0
    for number in range(kills):
        new, killed = kill(dataset, rng.uniform(0, longest))
        hit += killed
        safe = max(safe, new)
        try:
            if problem := wrong(dataset, safe):
                lost.append(f"kill {number}: {problem}")
        except Exception as error:  # whatever LeRobot says of a broken dataset
            unreadable.append(f"kill {number}: {error!r}")
        print(
            f"kill {number + 1} of {kills}: {safe} safe, {len(lost)} lost, {len(unreadable)} unreadable",
            file=sys.stderr,
        )
        if lost or unreadable or safe >= MOST - AT_ONCE:
            shutil.rmtree(folder, ignore_errors=True)
            safe = 0
    print(json.dumps({"kills": kills, "while_recording": hit, "lost": lost, "unreadable": unreadable}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
