"""A summary and a picture of a recorded dataset."""

import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from policies.storage.folders import replace_file
from robot.recording.parts import EPISODES, MEASURED, SUCCESS
from worldmodel.senses import STATE_KEY

GOOD, BAD, UNKNOWN, INK = "#0072B2", "#D55E00", "#666666", "#333333"  # Okabe and Ito's colour-blind-safe palette
DRAWN = 100
"""The most episodes that are drawn, evenly chosen: more would blur the picture."""


@dataclass(frozen=True)
class Review:
    """A dataset's table of episodes, one entry per episode. `success` is None if unknown."""

    lengths: np.ndarray
    success: np.ndarray | None
    control_hz: np.ndarray
    late: np.ndarray
    tasks: list[str]
    by: list[str]

    @classmethod
    def of(cls, dataset: Path) -> "Review":
        """Read the table of a dataset. Raises OSError."""
        columns = _table(sorted((dataset / EPISODES).glob("chunk-*/file-*.parquet")))
        return cls(
            np.array(columns["length"]),
            np.array(columns["success"]) if "success" in columns else None,
            np.array(columns["control_hz"]),
            np.array(columns["late_frames"]),
            [task for tasks in columns["tasks"] for task in tasks],
            columns["by"],
        )

    @property
    def title(self) -> str:
        """A one-line title: what was done, and by whom."""
        tasks, by = dict.fromkeys(self.tasks), dict.fromkeys(self.by)
        what = next(iter(tasks)) if len(tasks) == 1 else f"{len(tasks)} tasks:"
        rate = "" if self.success is None else f", {self.success.mean():.0%} succeeded"
        return f"{what}  {len(self.lengths)} episodes by {' and '.join(by)}{rate}"

    def summary(self) -> dict:
        """Return statistics over all episodes; `tasks` and `by` count the episodes of each.

        `control_hz` is the rate over all steps together; it and `success_rate` are None if unknown.
        """
        seconds = np.sum((self.lengths - 1) / self.control_hz)
        return {
            "episodes": len(self.lengths),
            "frames": int(self.lengths.sum()),
            "success_rate": None if self.success is None else round(float(self.success.mean()), 4),
            "control_hz": round(float(np.sum(self.lengths - 1) / seconds), 3) if seconds else None,
            "late_frames": int(self.late.sum()),
            "tasks": dict(Counter(self.tasks)),
            "by": dict(Counter(self.by)),
        }


def picture(path: Path, dataset: Path, title: str) -> None:
    """Plot each joint over time, one curve per episode: blue if it succeeded, with a dot where it first did."""
    columns = _table(sorted((dataset / "data").glob("chunk-*/file-*.parquet")), _DRAWN_COLUMNS)
    episode, seconds = np.array(columns["episode_index"]), np.array(columns[MEASURED]).reshape(-1)
    state = np.array(columns[STATE_KEY])
    done = np.array(columns[SUCCESS]).reshape(-1) if SUCCESS in columns else None
    names = _names(dataset)
    numbers = np.unique(episode)
    with rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        grid = figure.subplots(2, math.ceil(len(names) / 2), sharex=True, squeeze=False)
        for number in numbers[np.linspace(0, len(numbers) - 1, min(DRAWN, len(numbers))).round().astype(int)]:
            steps = np.flatnonzero(episode == number)
            first = None if done is None or not done[steps].any() else steps[np.argmax(done[steps])]
            colour = UNKNOWN if done is None else BAD if first is None else GOOD
            for axis, values in zip(grid.flat, state.T, strict=False):
                axis.plot(seconds[steps], values[steps], color=colour, lw=0.8, alpha=0.5)
                if first is not None:
                    axis.plot(seconds[first], values[first], "o", color=colour, ms=3.5)
        for axis, name in zip(grid.flat, names, strict=False):
            axis.set_title(name.removesuffix(".pos").replace("_", " "), fontsize=10)
            axis.set_ylabel("0 to 100" if name.startswith("gripper") else "degrees")
            axis.spines[["top", "right"]].set_visible(False)
        for axis in grid[-1]:
            axis.set_xlabel("seconds")
        marks = [Line2D([], [], color=GOOD, marker="o", ms=4), Line2D([], [], color=BAD)]
        if done is not None:
            figure.legend(marks, ["succeeded, from the dot on", "did not"], loc="outside lower center", ncols=2)
        figure.suptitle(title)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=130)
    replace_file(path, drawn.getvalue())


_DRAWN_COLUMNS = ("episode_index", MEASURED, SUCCESS, STATE_KEY)


def _table(files: list[Path], wanted: tuple[str, ...] = ()) -> dict[str, list]:
    """Return concatenated columns of Parquet files: those in `wanted` that exist, or else all but statistics.

    LeRobot's statistics are the columns with "/" in their name.
    """
    import pyarrow
    import pyarrow.parquet

    tables = []
    for file in files:
        there = pyarrow.parquet.read_schema(file).names
        columns = [name for name in there if name in wanted or (not wanted and "/" not in name)]
        tables.append(pyarrow.parquet.read_table(file, columns=columns))
    return pyarrow.concat_tables(tables, promote_options="permissive").to_pydict()


def _names(dataset: Path) -> list[str]:
    return json.loads((dataset / "meta" / "info.json").read_text())["features"][STATE_KEY]["names"]
