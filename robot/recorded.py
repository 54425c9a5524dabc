"""Recordings to learn from: the columns of a LeRobotDataset (version 3), episode by episode, its frames decoded once.

Frames are read by LeRobot's own reader and kept at the size that a model sees, in memory-mapped files of a bounded
folder, so that only the first epoch of the first run pays for the videos.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from policies.storage.folders import aside_of, forget_oldest, put
from robot.datasets import ACTION, DatasetError, info_of, opened, quiet, steps_of
from robot.recording import SCENE, SUCCESS, done, marks_of
from sim.renderer import middle
from worldmodel.errors import in_one_line
from worldmodel.senses import STATE_KEY, is_image

REWARD, INTERVENTION = "next.reward", "intervention"
"""LeRobot's columns of the reward after a step, and of whether a person had taken over from a policy."""
COLUMNS = (ACTION, STATE_KEY, SCENE, SUCCESS, REWARD, INTERVENTION)


@dataclass(frozen=True)
class Episode:
    """T recorded steps. `action` (T, A) and what else was recorded at each: `columns` by LeRobot's key, (T, ...).

    `frames`: of each camera (T, height, width, 3) uint8, mapped from a file. `success`: of the episode, None if nothing
    says so. `sim_task`: the simulated task, if it was one.
    """

    dataset: Path
    number: int
    action: np.ndarray
    columns: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    success: bool | None
    sim_task: str

    def __len__(self) -> int:
        return len(self.action)

    @property
    def done(self) -> np.ndarray | None:
        """Whether the task was done after each step (T,); None if nothing says so."""
        return done(self.success, self.columns.get(SUCCESS), len(self))


def found(name: str) -> Path:
    """Return the folder of a dataset: a path, or a repository's id in LeRobot's own cache. Raises DatasetError."""
    if Path(name).is_dir():
        return Path(name)
    cache = Path(os.environ.get("HF_LEROBOT_HOME", Path("~/.cache/huggingface/lerobot").expanduser()))
    if (cache / name).is_dir():
        return cache / name
    raise DatasetError(f"data={name}: no such folder, and no dataset of this name in {cache}")


def described(folders: Sequence[Path]) -> dict:
    """Return the first's meta/info.json, if all can be learned from together; else raise DatasetError."""
    first, *others = [info_of(folder) for folder in folders]
    for folder, info in zip(folders[1:], others, strict=True):
        ours, theirs = _learned_from(first), _learned_from(info)
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                here, there = (each.get(name, "missing") for each in (theirs, ours))
                raise DatasetError(f"{folder}: its {name} is {here}, that of {folders[0]} is {there}")
    return first


def _learned_from(info: Mapping) -> dict[str, str]:
    """Return what is to be the same in datasets that teach one policy; cameras may differ in size."""
    found = {name: f"{info.get(name)}" for name in ("fps", "robot_type")}
    for key, feature in info["features"].items():
        if key in ("action", STATE_KEY, SCENE):
            found[key] = f"{feature.get('names') or feature.get('shape')}"
        elif is_image(key):
            found[key] = "a camera"
    return found


def episodes_of(folder: Path, sizes: Mapping[str, tuple[int, int]], cache_gb: float) -> tuple[list[Episode], float]:
    """Read episodes, cameras in these (height, width); and the seconds decoding took. Raises DatasetError."""
    recorded, numbers = steps_of(folder, COLUMNS)
    marks = marks_of(folder)
    frames, seconds = _frames(folder, sizes, len(numbers), cache_gb) if sizes else ({}, 0.0)
    borders = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist()
    episodes = []
    for start, end in pairwise(borders):
        rows, number = slice(start, end), int(numbers[start])
        success, sim_task = marks.get(number, (None, ""))
        mine = {key: values[rows] for key, values in recorded.items()}
        shown = {key: values[rows] for key, values in frames.items()}
        episodes.append(Episode(folder, number, mine.pop(ACTION), mine, shown, success, sim_task))
    return episodes, seconds


def _frames(
    folder: Path, sizes: Mapping[str, tuple[int, int]], count: int, cache_gb: float
) -> tuple[dict[str, np.ndarray], float]:
    """Return each camera's frames (count, height, width, 3), mapped from files, and the seconds that decoding took."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path("~/.cache").expanduser())) / "semagram" / "frames"
    info = folder / "meta" / "info.json"
    stamp = f"{folder.resolve()} {info.stat().st_mtime_ns} {count}"
    paths = {}
    for key, size in sizes.items():
        paths[key] = cache / f"{hashlib.sha256(f'{stamp} {key} {size}'.encode()).hexdigest()[:24]}.npy"
    needed = sum(3 * height * width * count for height, width in sizes.values()) / 1e9
    if needed > cache_gb:
        raise DatasetError(f"{folder}: its frames take {needed:.2g} GB, cache_gb={cache_gb:g}; or a smaller image_size")
    began, missing = time.perf_counter(), {key: path for key, path in paths.items() if not path.exists()}
    if missing:
        _decode(folder, {key: sizes[key] for key in missing}, count, missing)
    for path in paths.values():
        os.utime(path)
    forget_oldest(cache.glob("*.npy"), cache_gb * 1e9, paths.values())
    seconds = time.perf_counter() - began if missing else 0.0
    return {key: np.load(path, mmap_mode="r") for key, path in paths.items()}, seconds


def _decode(folder: Path, sizes: Mapping[str, tuple[int, int]], count: int, paths: Mapping[str, Path]) -> None:
    """Decode the cameras' frames to one file each, which appears whole. Raises DatasetError."""
    from contextlib import ExitStack

    with ExitStack() as stack, quiet():
        dataset = opened(folder, return_uint8=True)
        asides = {key: stack.enter_context(aside_of(path)) for key, path in paths.items()}
        files = {}
        for key, aside in asides.items():
            shape = count, *sizes[key], 3
            files[key] = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        for row in range(count):
            try:
                step = dataset[row]
            except Exception as error:
                raise DatasetError(f"{folder}: a video does not decode at step {row} ({in_one_line(error)})") from error
            for key, file in files.items():
                frame = step[key].numpy()
                frame = frame if frame.dtype == np.uint8 else (255 * frame).round().clip(0, 255).astype(np.uint8)
                file[row] = middle(np.moveaxis(frame, 0, -1), *sizes[key])
        for key, file in files.items():
            file.flush()
            put(asides[key], paths[key])
