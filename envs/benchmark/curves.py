"""A run's metrics.csv as arrays: returns against environment steps."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from envs.benchmark.results import ResultsError

NEEDED = ("env_steps", "episode_return", "eval_return", "eval_std")
OPTIONAL = ("eval_policy_return", "episode_driven")


@dataclass(frozen=True)
class LearningCurve:
    """The learning curve of one run: the returns of T training episodes and of E evaluations, by environment step.

    Training episodes are in the order they ended, without those in which an expert acted. `end`: the last environment
    step recorded in the file; 0 for a run that has recorded nothing.

    `eval_return` and `eval_std`: mean and standard deviation over an evaluation's episodes (0 for a single episode).
    `eval_policy_return`: mean return of the policy without the planner, NaN where it was not measured.
    """

    train_steps: Float[ndarray, " T"]
    train_return: Float[ndarray, " T"]
    eval_steps: Float[ndarray, " E"]
    eval_return: Float[ndarray, " E"]
    eval_std: Float[ndarray, " E"]
    eval_policy_return: Float[ndarray, " E"]
    end: float


def read_curve(path: Path | str) -> LearningCurve:
    """Read the columns `NEEDED` and, if present, `OPTIONAL` of a metrics.csv; other columns are ignored.

    A last line without a newline is still being written, or was torn by a kill, and is skipped.
    Raises ResultsError for a file that is missing, lacks a column, has a non-numeric cell, or whose steps decrease.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not UTF-8 text at byte {error.start}") from error
    table = csv.reader(lines)
    head = next(table, [])
    if missing := [name for name in NEEDED if name not in head]:
        raise ResultsError(f"{path}, line 1: no column {', '.join(missing)}")
    rows = [_numbers(path, number, head, cells) for number, cells in enumerate(table, start=2)]
    columns = dict(zip(NEEDED + OPTIONAL, np.array(rows, float).reshape(-1, len(NEEDED + OPTIONAL)).T, strict=True))
    steps = columns["env_steps"]
    if (back := np.flatnonzero(np.diff(steps) < 0)).size:
        at = int(back[0]) + 1
        raise ResultsError(f"{path}, line {at + 2}: env_steps={steps[at]:.0f} after {steps[at - 1]:.0f}")
    own = ~(columns["episode_driven"] > 0)  # all of a peer's, which has no expert
    train, evaluation = np.isfinite(columns["episode_return"]) & own, np.isfinite(columns["eval_return"])
    return LearningCurve(
        steps[train],
        columns["episode_return"][train],
        steps[evaluation],
        columns["eval_return"][evaluation],
        np.nan_to_num(columns["eval_std"][evaluation]),  # undefined for a single episode
        columns["eval_policy_return"][evaluation],
        float(steps[-1]) if len(steps) else 0.0,
    )


def smooth(values: Float[ndarray, " T"], window: int) -> Float[ndarray, " T"]:
    """Return the centred moving mean over `window` values (made odd); at the ends, over the values available."""
    kernel = np.ones(min(max(window, 1), len(values)) // 2 * 2 + 1)
    total = np.convolve(values, kernel)
    count = np.convolve(np.ones(len(values)), kernel)
    half = len(kernel) // 2
    return (total / count)[half : half + len(values)]


def trace(curve: LearningCurve) -> tuple[Float[ndarray, " N"], Float[ndarray, " N"]]:
    """Return (steps, returns) that represent a run: evaluations or, if fewer than two, smoothed training returns."""
    if len(curve.eval_steps) >= 2:
        return curve.eval_steps, curve.eval_return
    if len(curve.train_steps) == 0:
        return curve.eval_steps, curve.eval_return
    return curve.train_steps, smooth(curve.train_return, len(curve.train_return) // 10)


def _numbers(path: Path, number: int, head: list[str], cells: list[str]) -> list[float]:
    if len(cells) != len(head):
        raise ResultsError(f"{path}, line {number}: {len(cells)} cells, there must be {len(head)}")
    row = dict(zip(head, cells, strict=True))
    numbers = []
    for name in NEEDED + OPTIONAL:
        try:
            numbers.append(float(row.get(name) or "nan"))
        except ValueError:
            raise ResultsError(f"{path}, line {number}: {name}={row[name]!r} is no number") from None
    if not np.isfinite(numbers[0]):
        raise ResultsError(f"{path}, line {number}: env_steps must be a number of steps")
    return numbers
