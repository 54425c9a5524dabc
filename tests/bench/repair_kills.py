"""Kills LeRobot's own recording at any moment, again and again, and repairs what is left.

    python tests/bench/repair_kills.py FOLDER [KILLS]

`lerobot-record`'s code records short episodes of a made-up arm with two cameras, in each of its ways to keep frames. Of
what was killed, every episode whose saving had ended must be in the copy, step by step and frame by frame, and LeRobot
must read it. The last line is JSON.
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
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HZ, EPISODES, SIDE, LEVELS = 30, 13, 64, 200
CAMERAS, ACTION = ("front", "wrist"), {"a.pos": float, "b.pos": float}
WAYS = {
    "video": {},
    "images": {"video": False},
    "streaming": {"streaming_encoding": True},
}
"""LeRobot's ways to keep frames. More than 10 episodes: it keeps what it knows of them in tens."""


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


def record(folder: Path, way: str, say) -> None:
    """Record with LeRobot's own command; `say` each episode's number and length once it is saved."""
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
        say(dataset.num_episodes, length)

    arm, save, LeRobotDataset.save_episode = Arm(read=0), LeRobotDataset.save_episode, saving
    lerobot_record.make_robot_from_config = lambda _: arm
    lerobot_record.make_teleoperator_from_config = lambda _: Person()
    times = {"episode_time_s": 0.25, "reset_time_s": 0.0, "num_episodes": EPISODES, "fps": HZ, "encoder_threads": 1}
    keys = {"repo_id": "local/x", "single_task": "wave", "root": folder, "push_to_hub": False, "no_stamp": True}
    config = DatasetRecordConfig(**times, **keys, **WAYS[way])
    lerobot_record.record(lerobot_record.RecordConfig(robot=Arm(), dataset=config, teleop=object(), play_sounds=False))


def wrong(folder: Path, out: Path, lengths: list[int]) -> str:
    """What is wrong with the repaired copy, if episodes of these lengths had been saved; empty: nothing."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from robot.datasets import DatasetError
    from robot.repair import repair

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


def parent() -> None:
    """For each folder and way named on stdin, fork a process that records; it has imported LeRobot and no more."""
    logging.disable(logging.WARNING)
    import lerobot.scripts.lerobot_record  # noqa: F401

    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LeRobot's own lines
    for line in sys.stdin:
        folder, way = line.split()
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            record(Path(folder), way, lambda *numbers: print("saved", *numbers, file=said, flush=True))
            os._exit(0)
        print("child", child, 0, file=said, flush=True)
        print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, file=said, flush=True)


def kill(forks, folder: Path, way: str, seconds: float, hard: bool) -> tuple[list[int], bool]:
    """Record, and kill it after so long, its helpers with it if `hard`. Lengths saved; whether it still recorded."""
    print(folder, way, file=forks.stdin, flush=True)
    word, child, _ = forks.stdout.readline().split()
    assert word == "child", word
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if hard else os.kill)(int(child), signal.SIGKILL)
    lengths = []
    while word != "end":
        word, number, length = forks.stdout.readline().split()
        lengths += [int(length)] * (word == "saved")
    time.sleep(0.0 if hard else 0.3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(child), signal.SIGKILL)
    assert int(number) <= 0, "the recording failed by itself"
    return lengths, int(number) < 0


def killed(folder: Path, kills: int, ways=tuple(WAYS), seed: int = 0, longest: float = 9.0) -> dict:
    """Kill so often; what was found after it."""
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['parent']()"]
    rng, found = np.random.default_rng(seed), {"kills": kills, "while_recording": 0, "saved": 0, "wrong": []}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        for number in range(kills):
            dataset, out, way = folder / "killed", folder / "repaired", ways[number % len(ways)]
            lengths, hit = kill(forks, dataset, way, rng.uniform(0.2, longest), bool(rng.integers(2)))
            problem = wrong(dataset, out, lengths) if dataset.exists() else ""
            found["while_recording"] += hit
            found["saved"] += len(lengths)
            print(f"kill {number + 1}, {way}: {len(lengths)} saved, {hit}, {problem or 'all there'}", file=sys.stderr)
            if problem:
                found["wrong"].append(f"kill {number}, {way}: {problem}")
                shutil.move(dataset, folder / f"wrong-{number}")
            for each in (dataset, out):
                shutil.rmtree(each, ignore_errors=True)
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)))
