"""Published returns to compare ours with (sources: published/README.md)."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from envs import suite

STEPS = {"100k": 100_000, "200k": 200_000, "500k": 500_000, "1M": 1_000_000}  # tdmpc2.csv's columns
BEST_AT = 100_000  # environment steps that best_100k.csv refers to
DOMAINS = {"ball_in_cup": "cup", "point_mass": "pointmass"}  # TD-MPC2's names


@dataclass(frozen=True)
class Anchor:
    """A published mean return after `env_steps` environment steps, and who published it."""

    env_steps: int
    mean_return: float
    by: str


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
    return dict(_tdmpc2().get(canonical(task), {}))


def best(task: str) -> Anchor | None:
    """Return the best published return at 100k environment steps that we found, or None."""
    return _best().get(canonical(task))


def scale(task: str) -> float | None:
    """Return the return that normalises to 1: 1000 for DMControl, 1 for success rates, None if there is no scale."""
    name = canonical(task)
    if name in _tdmpc2():
        rate = re.match(r"mw-|myo-|(lift|pick|stack)-|turn-faucet", name)
        return 1.0 if rate else 1000.0
    return 1000.0 if re.fullmatch(r"[a-z]+(-[A-Za-z0-9]+)+", name) and not re.search(r"-v\d+$", name) else None


@cache
def _tdmpc2() -> dict[str, dict[int, float]]:
    return {row["task"]: {steps: float(row[column]) for column, steps in STEPS.items()} for row in _read("tdmpc2.csv")}


@cache
def _best() -> dict[str, Anchor]:
    return {row["task"]: Anchor(BEST_AT, float(row["return_at_100k"]), row["by"]) for row in _read("best_100k.csv")}


def _read(name: str) -> list[dict[str, str]]:
    text = (files("envs.benchmark") / "published" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
