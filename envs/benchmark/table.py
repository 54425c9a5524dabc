"""Results as a table, in Markdown or for a terminal: one row per task, with published returns beside ours."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from envs.benchmark import anchors
from envs.benchmark.results import Result, latest
from envs.benchmark.statistics import Interval, mean_interval, normalise, stratified_interval

NONE = "–"
PEER = "tdmpc2"


@dataclass(frozen=True)
class Row:
    """A task at a number of environment steps. Returns are means over seeds of means over episodes; None: unknown."""

    task: str
    env_steps: int
    ours: Interval
    seeds: tuple[float, ...]
    policy: float | None
    published: float | None
    best: float | None
    peer: float | None
    minutes: float
    peer_minutes: float | None
    gflop: float | None

    @property
    def ratio(self) -> float | None:
        """Our return divided by TD-MPC2's published return at the same steps; None if that is unknown or 0."""
        return self.ours.estimate / self.published if self.published else None


def rows(results: Sequence[Result], agent: str = "semagram") -> list[Row]:
    """Return one row per (task, env_steps) of `agent`, sorted. Of a repeated run, only the last line counts."""
    results = latest(list(results))
    table = []
    for task, env_steps in sorted({(r.task, r.env_steps) for r in results if r.agent == agent}):
        here = [r for r in results if (r.task, r.env_steps) == (task, env_steps)]
        runs = sorted((r for r in here if r.agent == agent), key=lambda r: r.seed)
        peers = [r for r in here if r.agent == PEER]
        best = anchors.best(task)
        seeds = tuple(r.return_mean for r in runs)
        row = Row(
            task=task,
            env_steps=env_steps,
            ours=mean_interval(seeds, np.random.default_rng(0)),
            seeds=seeds,
            policy=_mean([r.policy_return_mean for r in runs]),
            published=anchors.published(task).get(env_steps),
            best=best.mean_return if best and best.env_steps == env_steps else None,
            peer=_mean([r.return_mean for r in peers]),
            minutes=float(np.mean([r.train_seconds for r in runs])) / 60,
            peer_minutes=float(np.mean([r.train_seconds for r in peers])) / 60 if peers else None,
            gflop=_mean([r.gflop_per_control_step for r in runs]),
        )
        table.append(row)
    return table


def summary(table: Sequence[Row]) -> Interval | None:
    """Return the interquartile mean of all normalised runs, stratified by task; None if no task has a known scale."""
    scores = [normalise(np.array(row.seeds), full) for row in table if (full := anchors.scale(row.task))]
    return stratified_interval(scores, np.random.default_rng(0)) if scores else None


def markdown(table: Sequence[Row]) -> str:
    """Format the table as Markdown; our return is bold where it reaches TD-MPC2's published one."""
    head, body, foot = _cells(table)
    for cells, row in zip(body, table, strict=True):
        if row.ratio is not None and row.ratio >= 1:
            cells[2] = f"**{cells[2].replace(' ', '** ', 1)}" if " " in cells[2] else f"**{cells[2]}**"
        cells[3] = f"<sub>{cells[3]}</sub>"
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ruler, *body, *foot])


def text(table: Sequence[Row]) -> str:
    """Format the table in fixed width for a terminal."""
    head, body, foot = _cells(table)
    widths = [max(map(len, column)) for column in zip(head, *body, *foot, strict=True)]
    rule = "  ".join("─" * width for width in widths)

    def line(cells: list[str]) -> str:
        return "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()

    return "\n".join([line(head), rule, *map(line, body), rule, *map(line, foot)])


def caption(results: Sequence[Result], agent: str = "semagram") -> str:
    """Return one line on how the numbers were obtained: seeds, episodes, device, commit, meaning of the brackets."""
    runs = [r for r in latest(list(results)) if r.agent == agent]
    seeds = Counter((r.task, r.env_steps) for r in runs).values()
    facts = {
        "Seeds a task": _span(seeds),
        "episodes a seed": _span([r.episodes for r in runs]),
        "device": ", ".join(sorted({r.device for r in runs})),
        "commit": ", ".join(sorted({r.commit for r in runs})),
    }
    said = "; ".join(f"{name}: {fact or NONE}" for name, fact in facts.items())
    return (
        f"{said}. Brackets: 95 % bootstrap interval over seeds (of three seeds, their range). "
        "Interquartile mean: of all runs as fractions of the task's ceiling, its interval stratified by task."
    )


def _span(counts: Collection[int]) -> str:
    return "–".join(str(count) for count in sorted({min(counts, default=0), max(counts, default=0)}))


def _cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Return head, body and foot, all of the same width. A peer's columns are included only if it was run here.

    The foot covers the tasks with a known scale; its ratio, those of them with a published return.
    """
    peer = any(row.peer is not None for row in table)
    head = ["task", "steps", "ours [95 %]", "per seed", "policy alone", "TD-MPC2", "ratio", "best published"]
    head += ["TD-MPC2 run here", "its minutes"] * peer + ["minutes", "GFLOP/step"]
    body = [
        [
            row.task,
            steps(row.env_steps),
            _interval(row.ours),
            " ".join(map(_return, row.seeds)),
            *map(_return, (row.policy, row.published)),
            _ratio(row.ratio),
            _return(row.best),
            *([_return(row.peer), _plain(row.peer_minutes)] if peer else []),
            *map(_plain, (row.minutes, row.gflop)),
        ]
        for row in table
    ]
    scored = [row for row in table if anchors.scale(row.task)]
    pooled = summary(table)
    if pooled is None:
        return head, body, []
    both = [row for row in scored if row.published is not None]
    theirs, over_both = _mean([row.published for row in both]), _mean([row.ours.estimate for row in both])
    mean = [f"mean of {len(scored)}", "", _return(_mean([row.ours.estimate for row in scored])), ""]
    mean += [_return(_mean([row.policy for row in scored])), _return(theirs)]
    mean += [_ratio(over_both / theirs if over_both is not None and theirs else None), ""]
    mean += ["", ""] * peer
    mean += [_plain(_mean([row.minutes for row in scored])), _plain(_mean([row.gflop for row in scored]))]
    if len(both) not in (0, len(scored)):
        mean[5] += f" (of {len(both)})"
    iqm = ["interquartile mean", "", _interval(pooled, ".3f")]
    return head, body, [mean, iqm + [""] * (len(head) - len(iqm))]


def steps(count: float) -> str:
    """Format a number of environment steps for display: 500, 50k, 1.5M."""
    for unit, suffix in ((1_000_000, "M"), (1000, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{suffix}"
    return f"{count:g}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interval(interval: Interval, form: str = "") -> str:
    def show(value: float) -> str:
        return format(value, form) if form else _return(value)

    if math.isnan(interval.low):
        return show(interval.estimate)
    return f"{show(interval.estimate)} [{show(interval.low)}, {show(interval.high)}]"


def _return(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"
