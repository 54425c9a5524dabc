"""A benchmark's report: tables, plots and one JSON object; also the README's block, made from a results file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from envs.benchmark import ablations, anchors, table
from envs.benchmark import results as rows
from envs.benchmark.block import update_block
from envs.benchmark.curves import LearningCurve
from envs.benchmark.figures import small_multiples
from envs.benchmark.results import Result, latest
from policies.storage.folders import replace_file

BLOCK = "results"


def agents(results: Sequence[Result]) -> list[str]:
    """Return the names of our agents, the default first."""
    names = {r.agent for r in results} - {table.PEER}
    return sorted(names, key=lambda name: (name != "semagram", name))


def mixed(results: Sequence[Result]) -> str:
    """Describe a task on which one of our agents was trained for different numbers of steps; '' if there is none."""
    for name in agents(results):
        for task in sorted({r.task for r in results if r.agent == name}):
            lengths = sorted({r.env_steps for r in results if (r.agent, r.task) == (name, task)})
            if len(lengths) > 1:
                return f"{name} on {task} after {' and '.join(map(str, lengths))} steps; keep the rows of one"
    return ""


def in_several(parts: Sequence[Sequence[Result]]) -> str:
    """Describe a run of ours that appears in more than one of `parts`, each a file's results; '' if there is none."""
    seen: set = set()
    for results in parts:
        ours = agents(results)
        runs = {(r.agent, r.task, r.seed, r.env_steps) for r in results if r.agent in ours}
        if twice := sorted(seen & runs):
            agent, task, number, _ = twice[0]
            return f"more than one has {agent} on {task}, seed {number}"
        seen |= runs
    return ""


def document(results: Sequence[Result]) -> str:
    """Return Markdown: a table for each of our agents and, if there are several, one that compares them."""
    names = agents(results)
    parts = []
    for name in names:
        heading = f"**{name}**\n\n" if len(names) > 1 else ""
        parts.append(f"{heading}{table.markdown(table.rows(results, name))}\n\n{table.caption(results, name)}")
    if len(names) > 1 and ablations.common(results, names):
        parts.append(ablations.markdown(results, names))
    return "\n\n".join(parts)


def terminal(results: Sequence[Result]) -> str:
    """Return our agents' tables as fixed-width text."""
    return "\n\n".join(table.text(table.rows(results, name)) for name in agents(results))


def write(folder: Path, results: Sequence[Result], curves: Mapping[str, Sequence[LearningCurve]]) -> None:
    """Write results.csv, table.md and, if there are curves, curves.png into a folder. `curves`: by task."""
    rows.write(folder / "results.csv", results)
    replace_file(folder / "table.md", (document(results) + "\n").encode())
    curves = {task: list(runs) for task, runs in curves.items() if runs}
    if curves:
        published = {task: anchors.published(task) for task in curves}
        best = {task: anchor for task in curves if (anchor := anchors.best(task))}
        small_multiples(folder / "curves.png", curves, published, best)


def summary(results: Sequence[Result], agent: str) -> dict:
    """Return an agent's results as a dict for JSON.

    Among others: `iqm`, the interquartile mean; `at_least_published`, how many tasks reach TD-MPC2's published return
    and how many have one; and the mean returns.
    """
    rows = table.rows(results, agent)
    pooled = table.summary(rows)
    beside = [(row.ours.estimate, row.published) for row in rows if row.published is not None]
    return {
        "agent": agent,
        "tasks": [row.task for row in rows],
        "seeds": max((len(row.seeds) for row in rows), default=0),
        "iqm": None if pooled is None else round(pooled.estimate, 4),
        "iqm_interval": None if pooled is None else [_finite(pooled.low), _finite(pooled.high)],
        "at_least_published": [sum(ours >= published for ours, published in beside), len(beside)],
        "return_mean": {row.task: round(row.ours.estimate, 2) for row in rows},
        "policy_return_mean": {row.task: None if row.policy is None else round(row.policy, 2) for row in rows},
        "train_seconds": {row.task: round(60 * row.minutes, 1) for row in rows},
        "commit": sorted({r.commit for r in latest(list(results)) if r.agent == agent}),
    }


def update_readme(path: Path, results: Sequence[Result]) -> bool:
    """Put the table into the README's block. Returns whether that changed the file. Raises BlockError, OSError."""
    return update_block(path, BLOCK, document(results))


def _finite(value: float) -> float | None:
    return round(value, 4) if value == value else None
