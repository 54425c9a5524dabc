"""What runs leave, read back: results, from summary.json files or a CSV file of rows, and learning curves; and what
others have published to compare them with (sources: published/README.md).
"""

import csv
import io
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from envs import suite
from policies.storage.folders import replace_file
from worldmodel.errors import UserError
from worldmodel.strict import build


class ResultsError(UserError):
    """A results or metrics file is unusable; the one-line message says which, where, and what is expected."""


@dataclass(frozen=True)
class Result:
    """One run: an agent trained on a task with a seed for `env_steps` environment steps, action repeats included.

    `agent` names the settings. `returns` are those, undiscounted, of the final evaluation's `episodes`;
    `policy_return_mean` is that of the policy without the planner. `gflop_per_control_step` counts update and planning
    (10^9 operations). None: not measured. Raises ValueError for a non-finite number, or returns that are not one an
    episode.
    """

    task: str
    seed: int
    agent: str
    env_steps: int
    return_mean: float
    return_std: float
    episodes: int
    policy_return_mean: float | None
    train_seconds: float
    env_steps_per_second: float
    gflop_per_control_step: float | None
    decisions_per_second: float | None
    parameters: int | None
    device: str
    commit: str
    returns: tuple[float, ...]

    def __post_init__(self):
        """Check for errors that would silently corrupt a table."""
        numbers = [value for value in vars(self).values() if isinstance(value, float)]
        if not all(map(math.isfinite, (*numbers, *self.returns))):
            raise UserError("a number is not finite")
        if len(self.returns) != self.episodes or not self.episodes:
            raise UserError(f"returns: {self.episodes} episodes, but {len(self.returns)} returns")


COLUMNS = tuple(field.name for field in fields(Result))


def read(path: Path | str) -> list[tuple[Path, Result]]:
    """Read a CSV file, or the finished runs in a folder named as the agent or, if it has none, one folder deeper.

    Each result with where it is from, the file or the run's folder; links are left out. Raises ResultsError, OSError.
    """
    path = Path(path)
    if not path.is_dir():
        return [(path, _parsed(path, number, row)) for number, row in enumerate(_csv(path, COLUMNS), start=2)]
    for pattern in ("*/summary.json", "*/*/summary.json"):
        there = [each.parent for each in sorted(path.glob(pattern)) if not each.parent.is_symlink()]
        found = {run: run_of(run, path.resolve().name) for run in there if (run / "config.yaml").exists()}
        if runs := [(run, result) for run, result in found.items() if result is not None]:
            return runs
    return []


def write(path: Path, results: Sequence[Result]) -> None:
    """Write results as a CSV file, atomically. Raises OSError."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(result) | {"returns": " ".join(map(repr, result.returns))} for result in results)
    replace_file(path, text.getvalue().encode())


def run_of(folder: Path, agent: str) -> Result | None:
    """Return the result of a run folder; None before its end. Raises ResultsError if its files are damaged."""
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_bytes())
        asked = re.search(r"^steps: (\d+)$", (folder / "config.yaml").read_text(), re.MULTILINE)
        # Several environments may take a few steps more; published returns are looked up by the steps asked for.
        steps = min(found["env_steps"], int(asked[1])) if asked else found["env_steps"]
        known = {name: found[name] for name in COLUMNS if name in found}
        return build(Result, known | {"agent": agent, "env_steps": steps, "device": device(found["device"])})
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:  # ValueError: not JSON, not text, or no such result
        why = f"damaged, not the summary of a run ({error})"
        raise ResultsError(f"{path}: {why}; delete it, and the run is finished anew") from error


def device(name: str) -> str:
    """Return the name of the device; for `cpu`, the processor's model name if known."""
    if name != "cpu":
        return name
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _parsed(path: Path, number: int, row: Mapping[str, str]) -> Result:
    """Parse a row: text, words of numbers, or a number, empty for None."""
    try:
        values: dict = {name: row[name] for name in COLUMNS}
        for name in set(COLUMNS) - {"task", "agent", "device", "commit", "returns"}:
            values[name] = json.loads(row[name]) if row[name] else None
        values["returns"] = tuple(map(float, row["returns"].split()))
        return build(Result, values)
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path}, line {number}: {error}") from error


def _csv(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with at least the columns `needed`; an unfinished last line is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        head, *rows = csv.reader(lines, strict=True) if lines else ([],)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: {error}") from error
    if lacking := [name for name in needed if name not in head]:
        raise ResultsError(f"{path}, line 1: no column {', '.join(lacking)}")
    for number, cells in enumerate(rows, start=2):
        if len(cells) != len(head):
            raise ResultsError(f"{path}, line {number}: {len(cells)} cells, there must be {len(head)}")
    return [dict(zip(head, cells, strict=True)) for cells in rows]


@dataclass(frozen=True)
class LearningCurve:
    """The learning curve of one run: the returns of T training episodes and of E evaluations, by environment step.

    Training episodes are in the order they ended, without those in which an expert acted. `end`: the last environment
    step recorded, 0 for none. `eval_std`: over an evaluation's episodes. `eval_policy_return`: without the planner.
    """

    train_steps: Float[ndarray, " T"]
    train_return: Float[ndarray, " T"]
    eval_steps: Float[ndarray, " E"]
    eval_return: Float[ndarray, " E"]
    eval_std: Float[ndarray, " E"]
    eval_policy_return: Float[ndarray, " E"]
    end: float


NEEDED = ("env_steps", "episode_return", "episode_driven", "eval_return", "eval_std", "eval_policy_return")


def read_curve(path: Path | str) -> LearningCurve:
    """Read the columns `NEEDED` of a run's metrics.csv; an empty cell is NaN.

    A last line without a newline is still being written, or was torn by a kill, and is skipped.
    Raises ResultsError for a file that lacks a column, has a non-numeric cell, or whose steps decrease, and OSError.
    """
    try:
        rows = [[float(row[name] or "nan") for name in NEEDED] for row in _csv(Path(path), NEEDED)]
    except ResultsError:
        raise
    except ValueError as error:
        raise ResultsError(f"{path}: {error}") from error
    steps, train, driven, evaluation, deviation, policy = np.array(rows, float).reshape(-1, len(NEEDED)).T
    if not (np.diff(steps) >= 0).all() or not np.isfinite(steps).all():
        raise ResultsError(f"{path}: env_steps must be numbers that never fall")
    own, judged = np.isfinite(train) & ~(driven > 0), np.isfinite(evaluation)
    return LearningCurve(
        steps[own],
        train[own],
        steps[judged],
        evaluation[judged],
        np.nan_to_num(deviation[judged]),  # undefined for a single episode
        policy[judged],
        float(steps[-1]) if len(steps) else 0.0,
    )


STEPS = {"100k": 100_000, "200k": 200_000, "500k": 500_000, "1M": 1_000_000}  # tdmpc2.csv's columns
BEST_AT = 100_000  # environment steps that dmc_100k.csv refers to
TDMPC2 = "TD-MPC2"
COSTS = {TDMPC2: 87.0, "MR.Q": 20.0, "DR.Q": 28.0, "XQC": 8.6, "SimbaV2 ×8": 114.0}  # GFLOP a decision, update and act
DOMAINS = {"ball_in_cup": "cup", "point_mass": "pointmass"}  # TD-MPC2's names


def canonical(task: str) -> str:
    """Return the task name that the published tables and TD-MPC2 itself use.

    `dm_control/ball_in_cup-catch-v0`, `ball_in_cup-catch`, `ball-in-cup-catch` and `cup-catch` are the same task;
    dm_control's underscores (`finger-turn_easy`) become hyphens. Other Gymnasium ids are returned unchanged.
    """
    if task.startswith("dm_control/"):
        task = re.sub(r"-v\d+$", "", task.removeprefix("dm_control/"))
    if re.search(r"-v\d+$", task) or ":" in task:
        return task
    name = task.replace("_", "-")
    name = suite.ALIASES.get(name, name)
    if name in suite.BY_NAME:
        domain, motion = suite.BY_NAME[name]
        name = f"{DOMAINS.get(domain, domain)}-{motion}".replace("_", "-")
    return name


def published(task: str) -> dict[int, float]:
    """Return TD-MPC2's published mean return (or success rate) by environment steps; empty if there is none."""
    row = _published("tdmpc2").get(canonical(task))
    return {steps: float(row[column]) for column, steps in STEPS.items()} if row else {}


def others(task: str) -> dict[str, float]:
    """Return what others have published of a task of dmc_100k.csv at BEST_AT environment steps, by algorithm."""
    if (row := _published("dmc_100k").get(canonical(task))) is None:
        return {}
    means = {TDMPC2: published(task).get(BEST_AT), **row}
    return {name: float(value) for name, value in means.items() if name != "task" and value}


def best(task: str) -> float | None:
    """Return the best of them, or None."""
    return max(others(task).values(), default=None)


def scale(task: str) -> float | None:
    """Return the return that normalises to 1: 1000 for the tasks of dm_control's suite; None if there is no scale."""
    return 1000.0 if canonical(task) in map(canonical, suite.NAMES) else None


@cache
def _published(name: str) -> dict[str, dict[str, str]]:
    """Return the rows of a published table by task."""
    text = (files("envs.benchmark") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return {row["task"]: row for row in csv.DictReader(text.splitlines())}
