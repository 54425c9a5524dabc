"""Episodes on disk: each becomes, the moment it is finished, a LeRobotDataset of its own.

LeRobot writes the end of its files when a session ends, and loses everything if killed before. So
`.<name>.parts/<number>` beside the dataset holds one finished, synced LeRobotDataset per episode, put there by an
atomic rename. At the end of this session, or of the next, LeRobot's own aggregation merges the dataset and its parts
into a new dataset, which replaces the old one in one step. A part whose number the dataset already has was merged
before a kill and is dropped.
"""

import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from policies.storage.folders import aside_of, locked, put, replace_file
from robot.datasets import EPISODES, STEPS, DatasetError, columns, info_of, names_of, quiet, set_columns, tables_in
from robot.ticks import same_priority
from worldmodel.senses import STATE_KEY

MEASURED, SUCCESS, SCENE = "measured_timestamp", "next.success", "observation.environment_state"
INTERVENTION = "intervention"  # as lerobot-rollout has it
GOOD, BAD, UNKNOWN, INK = "#0072B2", "#D55E00", "#666666", "#333333"  # Okabe and Ito's colour-blind-safe palette
DRAWN = 100  # the most episodes that are drawn, evenly chosen: more would blur the picture


@dataclass(frozen=True)
class EpisodeInfo:
    """What is stored per episode beside its steps, as columns of LeRobot's table of episodes.

    `success`: at any step; None if unknown. `control_hz`: the measured rate. `late_frames`: steps more than 5 ms late.
    `by`: who drove. `sim_task`: of the simulated arm. `intervention_rate`: the share of steps in which somebody else
    drove; None if nobody could.
    """

    seed: int
    success: bool | None
    control_hz: float
    late_frames: int
    by: str
    sim_task: str | None = None
    intervention_rate: float | None = None


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
            self.merged = self._episodes_in(self.dataset) if self.dataset.exists() else 0
            for part in self._parts():
                if int(part.name) < self.merged:
                    shutil.rmtree(part)
                else:
                    self._episodes_in(part)
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

    def _episodes_in(self, dataset: Path) -> int:
        """Return how many episodes a dataset has. Raises DatasetError unless this one's can be merged with them."""
        info, wanted = info_of(dataset), {"fps": self.fps, "robot_type": self.robot_type}
        for key, value in wanted.items():
            if info.get(key) != value:
                raise DatasetError(f"{dataset}: its {key} is {info.get(key)}, not {value}; choose a new folder")
        self._check_features(dataset, info["features"])
        return int(info["total_episodes"])

    def _check_features(self, dataset: Path, there: dict) -> None:
        from lerobot.utils.constants import DEFAULT_FEATURES

        ours, other = json.loads(json.dumps(self.features)), "choose a new folder"  # lists, as in the file
        if missing := [name for name in ours if name not in there]:
            raise DatasetError(f"{dataset}: has no {', '.join(missing)}; {other}, or leave that out here, too")
        if more := [name for name in there if name not in ours and name not in DEFAULT_FEATURES]:
            raise DatasetError(f"{dataset}: has {', '.join(more)}, too; record that here as well, or {other}")
        for name, feature in ours.items():
            for key in ("dtype", "shape", "names"):
                found, wanted = there[name].get(key), feature.get(key)
                if found != wanted:
                    raise DatasetError(f"{dataset}: the {key} of its {name} is {found}, here {wanted}; {other}")


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

    def add(
        self,
        observation: dict,
        action: dict,
        task: str,
        at_s: float,
        success: bool | None,
        intervention: bool | None = None,
    ) -> None:
        """Add a step: what was observed `at_s` seconds after the first and then sent; whether done, and by a person."""
        from lerobot.utils.feature_utils import build_dataset_frame

        features = self._parts.features
        frame = build_dataset_frame(features, observation, "observation")
        frame |= build_dataset_frame(features, action, "action") | {MEASURED: np.array([at_s]), "task": task}
        marks = {SUCCESS: success, INTERVENTION: intervention}
        frame |= {name: np.array([mark]) for name, mark in marks.items() if mark is not None}
        self._dataset.add_frame(frame)
        self.frames += 1

    def save(self, info: EpisodeInfo) -> None:
        """Finish the episode; it is safe on disk when this returns."""
        with quiet(), same_priority():
            self._dataset.save_episode(parallel_encoding=False)  # no subprocess that would outlive a kill
            self._dataset.finalize()
        (table,) = tables_in(self._aside, EPISODES)
        set_columns(table, {key: [value] for key, value in asdict(info).items() if value is not None})
        shutil.rmtree(self._aside / "images", ignore_errors=True)
        put(self._aside, self._path)

    def close(self) -> None:
        """End LeRobot's threads and files, which it would otherwise do only after its folder is gone."""
        self._dataset.finalize()


def done(mark: bool | None, success: np.ndarray | None, count: int) -> np.ndarray | None:
    """Return whether the task was done after each step (T,), by the episode's mark before its steps' `success`."""
    success = None if success is None else success.reshape(-1).astype(bool)
    if mark is None or (mark and success is not None and success.any()):
        return success
    return (np.arange(count) == count - 1) & mark


def marks_of(folder: Path) -> dict[int, tuple[bool | None, str]]:
    """Return what the table of episodes says of each: whether it succeeded, if it does, and its simulated task."""
    table = columns(folder, EPISODES, ("episode_index", "success", "sim_task"))
    nothing = [None] * len(table["episode_index"])
    rows = zip(table["episode_index"], table.get("success", nothing), table.get("sim_task", nothing), strict=True)
    return {number: (success, task or "") for number, success, task in rows}


def mark(dataset: Path, marks: dict[int, bool]) -> None:
    """Mark episodes as successful or not. Raises DatasetError for one that is not there; then nothing is marked."""
    import pyarrow
    import pyarrow.parquet

    there = {number: success for number, (success, _) in marks_of(dataset).items()}
    if missing := sorted(marks.keys() - there.keys()):
        raise DatasetError(f"{dataset}: no episode {missing[0]} to mark")
    for path in tables_in(dataset, EPISODES):
        numbers = pyarrow.parquet.read_table(path, columns=["episode_index"])["episode_index"].to_pylist()
        set_columns(path, {"success": pyarrow.array([(there | marks)[number] for number in numbers], pyarrow.bool_())})


def summary(dataset: Path) -> dict:
    """Return statistics over a dataset's episodes; rates are None if unknown. Raises OSError."""
    table = columns(dataset, EPISODES)
    marked = [done for done in table.get("success", ()) if done is not None]
    intervals = np.array(table["length"]) - 1
    seconds = float(np.sum(intervals / np.array(table["control_hz"])))
    return {
        "episodes": len(intervals),
        "frames": sum(table["length"]),
        "success_rate": round(float(np.mean(marked)), 4) if marked else None,
        "control_hz": round(float(intervals.sum()) / seconds, 3) if seconds else None,
        "late_frames": sum(table["late_frames"]),
        "tasks": dict(Counter(task for tasks in table["tasks"] for task in tasks)),
        "by": dict(Counter(table["by"])),
    }


def picture(path: Path, dataset: Path, title: str) -> None:
    """Plot each joint, a curve per episode: blue, with a dot, where it succeeded; thick where somebody took over."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    wanted = ("episode_index", "timestamp", MEASURED, SUCCESS, INTERVENTION, STATE_KEY)
    rows = {name: np.array(values) for name, values in columns(dataset, STEPS, wanted).items()}
    episode, seconds, state = rows["episode_index"], rows.get(MEASURED, rows["timestamp"]).reshape(-1), rows[STATE_KEY]
    marks, theirs, known = marks_of(dataset), rows.get(INTERVENTION, np.zeros(len(episode), bool)), False
    names = names_of(info_of(dataset)["features"][STATE_KEY], state.shape[1])
    numbers = np.unique(episode)
    with rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        grid = figure.subplots(2, math.ceil(len(names) / 2), sharex=True, squeeze=False)
        for number in numbers[np.linspace(0, len(numbers) - 1, min(DRAWN, len(numbers))).round().astype(int)]:
            steps = np.flatnonzero(episode == number)
            succeeds = done(marks[number][0], rows[SUCCESS][steps] if SUCCESS in rows else None, len(steps))
            first = None if succeeds is None or not succeeds.any() else steps[np.argmax(succeeds)]
            colour = UNKNOWN if succeeds is None else BAD if first is None else GOOD
            known |= succeeds is not None
            for axis, values in zip(grid.flat, state.T, strict=False):
                axis.plot(seconds[steps], values[steps], color=colour, lw=0.8, alpha=0.5)
                thick = np.where(theirs[steps], values[steps], np.nan)
                axis.plot(seconds[steps], thick, color=colour, lw=2.4, alpha=0.5)
                if first is not None:
                    axis.plot(seconds[first], values[first], "o", color=colour, ms=3.5)
        for axis, name in zip(grid.flat, names, strict=False):
            axis.set_title(name.removesuffix(".pos").replace("_", " "), fontsize=10)
            axis.set_ylabel("0 to 100" if name.startswith("gripper") else "degrees")
            axis.spines[["top", "right"]].set_visible(False)
        for axis in grid[-1]:
            axis.set_xlabel("seconds")
        if known:
            shown = [Line2D([], [], color=GOOD, marker="o", ms=4), Line2D([], [], color=BAD)]
            figure.legend(shown, ["succeeded, from the dot on", "did not"], loc="outside lower center", ncols=2)
        figure.suptitle(title)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=130)
    replace_file(path, drawn.getvalue())
