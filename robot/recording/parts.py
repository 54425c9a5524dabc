"""Episodes on disk: each becomes, the moment it is finished, a LeRobotDataset of its own.

LeRobot writes the end of its files when a session ends, and loses everything if killed before. So
`.<name>.parts/<number>` beside the dataset holds one finished, synced LeRobotDataset per episode, put there by an
atomic rename. At the end of this session, or of the next, LeRobot's own aggregation merges the dataset and its parts
into a new dataset, which replaces the old one in one step. A part whose number the dataset already has was merged
before a kill and is dropped.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from policies.storage.folders import aside_of, locked, put
from robot.datasets import DatasetError, quiet

MEASURED, SUCCESS = "measured_timestamp", "next.success"
INFO = "meta/info.json"
EPISODES = "meta/episodes"


@dataclass(frozen=True)
class EpisodeInfo:
    """What is stored per episode beside its steps, as columns of LeRobot's table of episodes.

    `success`: at any step; None if unknown. `control_hz`: the measured rate. `late_frames`: steps more than 5 ms late.
    `by`: who drove.
    """

    seed: int
    success: bool | None
    control_hz: float
    late_frames: int
    by: str


class Parts:
    """A dataset that grows by episodes; a context manager that one process at a time can hold.

    `features`: LeRobot's, without those it adds itself. Entering raises DatasetError for an existing dataset that does
    not match, or one that another process holds. Importing LeRobot takes seconds.
    """

    def __init__(self, dataset: Path, features: dict, fps: int, robot_type: str):
        self.dataset, self.features, self.fps, self.robot_type = dataset, features, fps, robot_type
        self.folder = dataset.parent / f".{dataset.name}.parts"

    def __enter__(self) -> "Parts":
        """Lock the dataset, and drop parts that were merged before a kill. Raises DatasetError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = locked(self.folder)
        if lock is None:
            raise DatasetError(f"{self.dataset}: another process is recording to it")
        self._lock = lock
        try:
            self.merged = episodes_in(self.dataset, self._wanted()) if self.dataset.exists() else 0
            for part in self._parts():
                if int(part.name) < self.merged:
                    shutil.rmtree(part)
                else:
                    episodes_in(part, self._wanted())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        """Unlock the dataset; remove the folder of parts if it is empty."""
        if not self._parts():
            shutil.rmtree(self.folder)
        os.close(self._lock)

    @property
    def finished(self) -> int:
        """Number of episodes that are safe on disk: merged, or a part."""
        return self.merged + len(self._parts())

    @contextmanager
    def episode(self) -> Iterator["Draft"]:
        """Yield a draft of the next episode; unless it is saved, it leaves nothing behind."""
        number = max([self.merged - 1, *(int(part.name) for part in self._parts())]) + 1
        path = self.folder / f"{number:06d}"
        with aside_of(path) as aside:
            with quiet():
                draft = Draft(self, aside, path)
            try:
                yield draft
            finally:
                with quiet():
                    draft.close()

    def merge(self) -> None:
        """Merge the parts into the dataset."""
        parts = self._parts()
        if not parts:
            return
        from lerobot.datasets.aggregate import aggregate_datasets

        roots = [self.dataset] * self.dataset.exists() + parts
        with aside_of(self.dataset) as aside, quiet(), redirect_stderr(io.StringIO()):  # LeRobot's progress bars
            aggregate_datasets(["local/part"] * len(roots), f"local/{self.dataset.name}", roots=roots, aggr_root=aside)
            put(aside, self.dataset)
        self.merged += len(parts)
        for part in parts:
            shutil.rmtree(part)

    def _parts(self) -> list[Path]:
        names = os.listdir(self.folder) if self.folder.is_dir() else []  # unlike a glob, closed even if a signal comes
        return sorted(self.folder / name for name in names if name.isdigit())

    def _wanted(self) -> dict:
        return {"fps": self.fps, "robot_type": self.robot_type, "features": self.features}


class Draft:
    """One episode while it is recorded, a LeRobotDataset at `aside` until it is saved to `path`."""

    def __init__(self, parts: Parts, aside: Path, path: Path):
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        self._parts, self._aside, self._path = parts, aside, path
        pictures = [feature for feature in parts.features.values() if feature["dtype"] in ("image", "video")]
        self._dataset = LeRobotDataset.create(
            repo_id="local/part",
            fps=parts.fps,
            root=aside,
            robot_type=parts.robot_type,
            features={name: dict(feature) for name, feature in parts.features.items()},
            use_videos=any(feature["dtype"] == "video" for feature in pictures),
            image_writer_threads=2 * len(pictures),
        )
        self.frames = 0

    def add(self, seen: dict, sent: dict, sentence: str, at_s: float, success: bool | None) -> None:
        """Add a step: what the robot observed `at_s` seconds after the first step, and what was then sent."""
        from lerobot.utils.feature_utils import build_dataset_frame

        features = self._parts.features
        frame = build_dataset_frame(features, seen, "observation") | build_dataset_frame(features, sent, "action")
        frame |= {MEASURED: np.array([at_s]), "task": sentence}
        if success is not None:
            frame[SUCCESS] = np.array([success])
        self._dataset.add_frame(frame)
        self.frames += 1

    def save(self, info: EpisodeInfo) -> None:
        """Finish the episode; it is safe on disk when this returns."""
        with quiet():
            self._dataset.save_episode(parallel_encoding=False)  # no subprocess that would outlive a kill
            self._dataset.finalize()
        _add_columns(self._aside, {key: value for key, value in asdict(info).items() if value is not None})
        shutil.rmtree(self._aside / "images", ignore_errors=True)
        put(self._aside, self._path)

    def close(self) -> None:
        """End LeRobot's threads and files, which it would otherwise do only after its folder is gone."""
        self._dataset.finalize()


def _add_columns(folder: Path, columns: dict) -> None:
    """Add columns to the table of episodes of a dataset with a single episode."""
    import pyarrow
    import pyarrow.parquet

    (path,) = (folder / EPISODES).glob("chunk-*/file-*.parquet")
    table = pyarrow.parquet.read_table(path)
    for name, value in columns.items():
        table = table.append_column(name, pyarrow.array([value]))
    pyarrow.parquet.write_table(table, path)


def episodes_in(dataset: Path, wanted: dict) -> int:
    """Return how many episodes a dataset has.

    Raises DatasetError if it cannot be read or differs from `wanted` (fps, robot_type, features).
    """
    path = dataset / INFO
    try:
        info = json.loads(path.read_text())
        found = {key: info[key] for key in wanted}
        count = int(info["total_episodes"])
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing, so {dataset} is no LeRobotDataset; choose a new folder") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not the description of a LeRobotDataset ({error})") from error
    for key in ("fps", "robot_type"):
        if found[key] != wanted[key]:
            raise DatasetError(f"{dataset}: its {key} is {found[key]}, not {wanted[key]}; choose a new folder")
    _check_features(dataset, found["features"], wanted["features"])
    return count


def _check_features(dataset: Path, there: dict, ours: dict) -> None:
    """Raise DatasetError unless episodes with the features `ours` can be merged into a dataset with `there`."""
    from lerobot.utils.constants import DEFAULT_FEATURES

    if missing := [name for name in ours if name not in there]:
        raise DatasetError(f"{dataset}: has no {', '.join(missing)}; choose a new folder, or leave that out here, too")
    if more := [name for name in there if name not in ours and name not in DEFAULT_FEATURES]:
        raise DatasetError(f"{dataset}: has {', '.join(more)}, too; record that here as well, or choose a new folder")
    for name, feature in ours.items():
        for key, kept in (("dtype", str), ("shape", list), ("names", _names)):
            found, wanted = (kept(each.get(key)) for each in (there[name], feature))
            if found != wanted:
                raise DatasetError(f"{dataset}: the {key} of its {name} is {found}, here {wanted}; choose a new folder")


def _names(names) -> list | None:
    return None if names is None else list(names)
