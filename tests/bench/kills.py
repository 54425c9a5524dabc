"""Kills a recording at any moment, again and again; what it had saved must be there, and LeRobot must read it.

    python tests/bench/kills.py ours|lerobots FOLDER [KILLS]

`ours`: semagram-record's writer, which merges every few episodes; the next process goes on. `lerobots`: the code of
`lerobot-record` with a made-up arm and two cameras, in each of its ways to keep frames; a repaired copy of what is left
must have every saved episode, step by step and frame by frame. The last line is JSON.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HZ = 30
FRAMES, AT_ONCE, MOST = 6, 2, 4  # ours: steps of an episode, episodes between merges, and in a dataset
EPISODES, SIDE, LEVELS = 13, 64, 200  # LeRobot's: it keeps what it knows of episodes in tens
CAMERAS, ACTION = ("front", "wrist"), {"a.pos": float, "b.pos": float}
WAYS = {"video": {}, "images": {"video": False}, "streaming": {"streaming_encoding": True}}
"""LeRobot's ways to keep frames."""
Say = Callable[[int], None]
"""Told the steps of each episode once it is saved."""


def parts(dataset: Path):
    from robot.recording import MEASURED, Parts

    joints, number = {"dtype": "float32", "shape": (2,), "names": [*ACTION]}, {"dtype": "float64", "shape": (1,)}
    features = {"observation.state": joints, "action": joints, MEASURED: number | {"names": None}}
    return Parts(dataset, features, HZ, "arm")


def value(episode: int, frame: int) -> float:
    return episode + frame / 100


def ours(dataset: Path, way: str, say: Say) -> None:
    """Record until there are MOST episodes, merging every AT_ONCE."""
    from robot.recording import EpisodeInfo

    while True:
        with parts(dataset) as store:
            for _ in range(AT_ONCE):
                number = store.finished
                with store.episode() as draft:
                    for frame in range(FRAMES):
                        joints = dict.fromkeys(ACTION, value(number, frame))
                        draft.add(joints, joints, "wave", frame / HZ, None)
                    draft.save(EpisodeInfo(number, True, HZ, 0, "script"))
                say(FRAMES)
            store.merge()
            if store.merged >= MOST:
                return


def wrong_of_ours(dataset: Path, lengths: list[int]) -> str:
    """What is wrong with the dataset after a kill, when so many episodes were called safe; empty: nothing."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if dataset.exists():
        LeRobotDataset("local/x", root=dataset)  # it is readable as the kill left it
    with parts(dataset) as store:
        finished = store.finished
        store.merge()
    if finished < len(lengths):
        return f"{len(lengths)} were safe, {finished} are there"
    if not finished:
        return ""
    read = LeRobotDataset("local/x", root=dataset)
    rows = read.hf_dataset.with_format("numpy")
    wanted = [value(episode, frame) for episode in range(finished) for frame in range(FRAMES)]
    if read.num_episodes != finished or not np.allclose(np.stack(rows["action"])[:, 0], wanted, atol=1e-5):
        return f"{read.num_episodes} episodes of {finished}, or other steps"
    return ""


class Arm(SimpleNamespace):
    """An arm that reports how often it was read, and shows it to its cameras."""

    name, cameras, is_connected = "arm", CAMERAS, True
    action_features = ACTION
    observation_features = ACTION | dict.fromkeys(CAMERAS, (SIDE, SIDE, 3))

    def get_observation(self):
        self.read += 1
        seen = np.full((SIDE, SIDE, 3), self.read % LEVELS, np.uint8)
        return {"a.pos": self.read, "b.pos": -self.read} | dict.fromkeys(CAMERAS, seen)

    def send_action(self, action):
        return action

    def connect(self):
        pass

    disconnect = connect


def lerobots(folder: Path, way: str, say: Say) -> None:
    """Record with LeRobot's own command."""
    from lerobot.configs.dataset import DatasetRecordConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.scripts import lerobot_record
    from lerobot.teleoperators import Teleoperator

    class Person(Teleoperator):
        name, config_class = "person", None
        action_features = feedback_features = ACTION
        is_connected = is_calibrated = True

        def __init__(self):
            pass

        def get_action(self):
            return {"a.pos": arm.read + 0.5, "b.pos": 0.0}

        def send_feedback(self, feedback):
            pass

        connect = disconnect = calibrate = configure = lambda self, *_: None

    def saving(dataset, *args, **keys):
        length = dataset.writer.episode_buffer["size"]
        save(dataset, *args, **keys)
        say(length)

    arm, save, LeRobotDataset.save_episode = Arm(read=0), LeRobotDataset.save_episode, saving
    lerobot_record.make_robot_from_config = lambda _: arm
    lerobot_record.make_teleoperator_from_config = lambda _: Person()
    times = {"episode_time_s": 0.25, "reset_time_s": 0.0, "num_episodes": EPISODES, "fps": HZ, "encoder_threads": 1}
    keys = {"repo_id": "local/x", "single_task": "wave", "root": folder, "push_to_hub": False, "no_stamp": True}
    config = DatasetRecordConfig(**times, **keys, **WAYS[way])
    lerobot_record.record(lerobot_record.RecordConfig(robot=Arm(), dataset=config, teleop=object(), play_sounds=False))


def wrong_of_lerobots(folder: Path, lengths: list[int]) -> str:
    """What is wrong with the repaired copy, if episodes of these lengths had been saved; empty: nothing."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from robot.datasets import DatasetError
    from robot.repair import repair

    out = folder.with_name("repaired")
    shutil.rmtree(out, ignore_errors=True)
    if not folder.exists():
        return ""
    try:
        found = repair(folder, out)
    except DatasetError as error:
        return str(error) * bool(lengths)
    read = LeRobotDataset("local/x", root=out)
    there = [int(length) for length in read.meta.episodes["length"]]
    lost = [number for number in found["dropped"] if number < len(lengths)]  # not one that was just being saved
    if there[: len(lengths)] != lengths or found["episodes"] != len(there) or lost:
        return f"saved {lengths}, there {there}, {found['dropped']}"
    last = 0
    for at in range(len(read)):
        step = read[at]
        number = round(float(step["observation.state"][0]))
        consecutive = number == last + 1 or (int(step["frame_index"]) == 0 and number > last)
        images = [float(step[f"observation.images.{name}"].mean()) * 255 - number % LEVELS for name in CAMERAS]
        if not consecutive or float(step["action"][0]) != number + 0.5 or max(map(abs, images)) > 3:
            return f"step {at}: {number} after {last}, {step['action']}, images off by {images}"
        last = number
    return ""


KINDS = {"ours": (ours, wrong_of_ours, ("",), 3.0), "lerobots": (lerobots, wrong_of_lerobots, tuple(WAYS), 9.0)}
"""What records, what is wrong with what it left, its ways, and how long a kill waits at most, in seconds."""


def parent(kind: str) -> None:
    """For each folder and way named on stdin, fork a process that records; it has imported LeRobot and no more.

    With threads, a fork may wait for ever for a lock.
    """
    logging.disable(logging.WARNING)
    import lerobot.datasets.aggregate
    import lerobot.scripts.lerobot_record  # noqa: F401

    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LeRobot's own lines
    for line in sys.stdin:
        folder, _, way = line.strip().partition(" ")
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            KINDS[kind][0](Path(folder), way, lambda length: print("saved", length, file=said, flush=True))
            os._exit(0)
        print("child", child, file=said, flush=True)
        print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=said, flush=True)


def kill(forks, folder: Path, way: str, seconds: float, hard: bool) -> tuple[list[int], bool]:
    """Record, and kill it after so long, its helpers with it if `hard`. Lengths saved; whether it still recorded."""
    print(folder, way, file=forks.stdin, flush=True)
    word, child = forks.stdout.readline().split()
    assert word == "child", word
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it was faster
        (os.killpg if hard else os.kill)(int(child), signal.SIGKILL)
    lengths = []
    while word != "end":
        word, number = forks.stdout.readline().split()
        lengths += [int(number)] * (word == "saved")
    time.sleep(0.0 if hard else 0.3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(child), signal.SIGKILL)
    assert int(number) <= 0, "the recording failed by itself"
    return lengths, int(number) < 0


def killed(kind: str, folder: Path, kills: int, seed: int = 0) -> dict:
    """Kill so often; what was found after it. A recording that can go on does, until it is whole."""
    _, wrong, ways, longest = KINDS[kind]
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['parent']({kind!r})"]
    rng, found = np.random.default_rng(seed), {"kills": kills, "while_recording": 0, "saved": 0, "wrong": []}
    before = list[int]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        for number in range(kills):
            dataset, way = folder / "killed", ways[number % len(ways)]
            lengths, hit = kill(forks, dataset, way, rng.uniform(0.2, longest), bool(rng.integers(2)))
            before += lengths
            try:
                problem = wrong(dataset, before)
            except Exception as error:  # whatever LeRobot says of a broken dataset
                problem = repr(error)
            found["while_recording"] += hit
            found["saved"] += len(lengths)
            print(f"kill {number + 1}, {way}: {len(lengths)} saved, {hit}, {problem or 'all there'}", file=sys.stderr)
            if problem:
                found["wrong"].append(f"kill {number}, {way}: {problem}")
            if problem or kind == "lerobots" or len(before) >= MOST - AT_ONCE:
                before.clear()
                for each in (dataset, folder / ".killed.parts"):
                    shutil.rmtree(each, ignore_errors=True)
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(killed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 50)))
