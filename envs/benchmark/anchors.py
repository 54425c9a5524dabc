"""Published returns to compare ours with (sources: published/README.md)."""

import csv
import re
from functools import cache
from importlib.resources import files

from envs import suite

STEPS = {"100k": 100_000, "200k": 200_000, "500k": 500_000, "1M": 1_000_000}  # tdmpc2.csv's columns
BEST_AT = 100_000  # environment steps that best_100k.csv refers to
DOMAINS = {"ball_in_cup": "cup", "point_mass": "pointmass"}  # TD-MPC2's names


def canonical(task: str) -> str:
    """Return the task name that the published tables and TD-MPC2 itself use.

    `dm_control/ball_in_cup-catch-v0`, `ball_in_cup-catch`, `ball-in-cup-catch` and `cup-catch` are the same task;
    dm_control's underscores (`finger-turn_easy`) become hyphens. Gymnasium ids (`Name-v0`, `package:Name-v0`) outside
    dm_control are returned unchanged.
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


def best(task: str) -> float | None:
    """Return the best published return after BEST_AT environment steps that we found, or None."""
    row = _published("best_100k").get(canonical(task))
    return float(row["return_at_100k"]) if row else None


def scale(task: str) -> float | None:
    """Return the return that normalises to 1: 1000 for the tasks of dm_control's suite; None if there is no scale."""
    return 1000.0 if canonical(task) in map(canonical, suite.NAMES) else None


@cache
def _published(name: str) -> dict[str, dict[str, str]]:
    """Return the rows of a published table by task."""
    text = (files("envs.benchmark") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return {row["task"]: row for row in csv.DictReader(text.splitlines())}
