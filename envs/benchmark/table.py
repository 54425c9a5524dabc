"""Results as Markdown, with published returns beside ours and bootstrap intervals.

Intervals: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (rliable, arXiv
2108.13264).
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from envs.benchmark.results import BEST_AT, COSTS, Result, best, others, published, scale
from policies.storage.folders import replace_file
from worldmodel.errors import UserError

RESAMPLES = 10_000
NONE = "–"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, in the data's unit. The ends are NaN if there is only one run."""

    estimate: float
    low: float
    high: float

    def show(self, number: Callable[[float], str]) -> str:
        """Format the estimate and, in brackets, the ends if they are known."""
        ends = "" if np.isnan(self.low) else f" [{number(self.low)}, {number(self.high)}]"
        return number(self.estimate) + ends


def mean_interval(values: Sequence[float] | ndarray, seed: int = 0) -> Interval:
    """Return a sample's mean and percentile bootstrap interval, too narrow for few: of three, their range."""
    return _interval([values], lambda x: x.mean(-1), seed)


def stratified_interval(tasks: Sequence[Float[ndarray, " _"]]) -> Interval:
    """Return the interquartile mean of all runs of all tasks with its stratified percentile bootstrap interval.

    It drops the lowest and the highest quarter. tasks: one array of normalised scores per task, one score per seed; a
    run is only ever replaced by one of the same task.
    """
    from scipy.stats import trim_mean

    return _interval(tasks, lambda scores: trim_mean(scores, 0.25, axis=-1))


def _interval(strata: Sequence, statistic: Callable[[ndarray], ndarray], seed: int = 0) -> Interval:
    strata, rng = [np.asarray(values, float) for values in strata], np.random.default_rng(seed)
    estimate = float(statistic(np.concatenate(strata)))
    if all(len(values) == 1 for values in strata):
        return Interval(estimate, np.nan, np.nan)
    drawn = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))] for values in strata]
    low, high = np.percentile(statistic(np.concatenate(drawn, -1)), [2.5, 97.5])
    return Interval(estimate, float(low), float(high))


def chosen(found: Sequence[tuple[str, Sequence[tuple[Path, Result]]]]) -> list[Result]:
    """Return what was `read` of each path, for a table. Raises UserError for none, one run twice or mixed steps."""
    pairs, where = [pair for _, each in found for pair in each], f"table={', '.join(path for path, _ in found)}"
    if not pairs:
        run = any((Path(path) / "summary.json").exists() for path, _ in found)
        raise UserError(f"{where}: {'a run; a folder of runs makes a table' if run else 'no finished run'}")
    lengths: dict[tuple, int] = {}
    places: dict[tuple, list[Path]] = {}
    for place, r in pairs:
        places.setdefault((r.agent, r.task, r.seed, r.env_steps), []).append(place)
    for (agent, task, seed, steps), same in sorted(places.items()):
        if len(same) > 1:
            raise UserError(f"{', '.join(map(str, same))}: twice {agent} on {task}, seed {seed}, after {steps} steps")
        if (other := lengths.setdefault((agent, task), steps)) != steps:
            raise UserError(f"{where}: {agent} on {task} after {other} and {steps} steps; keep the rows of one")
    return [result for _, result in pairs]


def agents(results: Sequence[Result]) -> list[str]:
    """Return the names of the agents, the default first."""
    return sorted({r.agent for r in results}, key=lambda name: (name != "semagram", name))


@dataclass(frozen=True)
class Row:
    """A task at a number of environment steps: each seed's return, and means over seeds; None: not known."""

    task: str
    env_steps: int
    seeds: tuple[float, ...]
    policy: float | None
    minutes: float | None
    gflop: float | None

    @property
    def ours(self) -> Interval:
        """The mean return and its interval."""
        return mean_interval(self.seeds)

    @property
    def published(self) -> float | None:
        """TD-MPC2's published return at the same steps."""
        return published(self.task).get(self.env_steps)

    @property
    def ratio(self) -> float | None:
        """Our return divided by the published one; None if that is unknown or 0."""
        return self.ours.estimate / self.published if self.published else None


def rows(results: Sequence[Result], agent: str) -> list[Row]:
    """Return one row per (task, env_steps) of `agent`, sorted."""
    table, ours = [], sorted((r for r in results if r.agent == agent), key=lambda r: r.seed)
    for task, env_steps in sorted({(r.task, r.env_steps) for r in ours}):
        runs = [r for r in ours if (r.task, r.env_steps) == (task, env_steps)]
        policy, seconds = _mean(r.policy_return_mean for r in runs), _mean(r.train_seconds for r in runs)
        minutes, gflop = seconds and seconds / 60, _mean(r.gflop_per_control_step for r in runs)
        table.append(Row(task, env_steps, tuple(r.return_mean for r in runs), policy, minutes, gflop))
    return table


def pooled(table: Sequence[Row]) -> Interval | None:
    """Return the interquartile mean of all normalised runs, stratified by task; None if no task has a known scale."""
    scores = [np.array(row.seeds) / full for row in table if (full := scale(row.task))]
    return stratified_interval(scores) if scores else None


def document(results: Sequence[Result]) -> str:
    """Return Markdown: a table for each agent and, if there are several, one that compares them."""
    names, parts = agents(results), []
    for name in names:
        heading = f"**{name}**\n\n" if len(names) > 1 else ""
        table = rows(results, name)
        parts.append(f"{heading}{markdown(table)}\n\n{_caption(results, name)}")
        if lines := field(table):
            parts.append(lines)
    if len(names) > 1 and (shared := common(results)):
        parts.append(comparison(shared))
    return "\n\n".join(parts)


def markdown(table: Sequence[Row]) -> str:
    """Return the table of one agent; a return is bold where it reaches TD-MPC2's published one.

    Columns without a number, as those of published returns are for a task of one's own, are left out.
    The foot covers the tasks with a known scale; its ratio, those of them with a published return.
    """
    head = ["task", "steps", "ours [95 %]", "per seed", "policy alone", "TD-MPC2", "ratio", "best published"]
    head += ["minutes", "GFLOP/step"]
    lines = []
    for row in table:
        ours = row.ours.show(_return)
        if row.ratio is not None and row.ratio >= 1:
            ours = re.sub(r"^\S+", r"**\g<0>**", ours)
        seeds, known = " ".join(map(_return, row.seeds)), best(row.task) if row.env_steps == BEST_AT else None
        returns = [ours, f"<sub>{seeds}</sub>", _return(row.policy), _return(row.published), _ratio(row.ratio)]
        costs = _number(row.minutes), _number(row.gflop)
        lines.append([row.task, steps(row.env_steps), *returns, _return(known), *costs])
    scored = [row for row in table if scale(row.task)]
    if (all_runs := pooled(table)) is not None:
        both, mine = [row for row in scored if row.published is not None], _mean(row.ours.estimate for row in scored)
        theirs, over_both = _mean(row.published for row in both), _mean(row.ours.estimate for row in both)
        ratio = over_both / theirs if over_both is not None and theirs else None
        of = f" (of {len(both)})" if len(both) not in (0, len(scored)) else ""
        policy = _mean(row.policy for row in scored)
        mean = [_return(mine), "", _return(policy), _return(theirs) + of, _ratio(ratio), ""]
        costs = _number(_mean(row.minutes for row in scored)), _number(_mean(row.gflop for row in scored))
        lines.append([f"mean of {len(scored)}", "", *mean, *costs])
        lines.append(["interquartile mean", "", all_runs.show("{:.3f}".format), *[""] * (len(head) - 3)])
    shown = [any(line[place] != NONE for line in lines[: len(table)] or [head]) for place in range(len(head))]
    return _table([*compress(head, shown)], [[*compress(line, shown)] for line in lines])


def field(table: Sequence[Row]) -> str:
    """Return a line on who has published all tasks of a table at its steps: means of them, and the cost; or nothing."""
    if not (means := published_means(table)):
        return ""
    costs = {name: f", {COSTS[name]:g} GFLOP" for name in means if name in COSTS}
    said = "; ".join(f"{name} {mean:.0f}{costs.get(name, '')}" for name, mean in means.items())
    return (
        f"Published means of these {len(table)} tasks: {said}. ×: updates a control step, where not one; GFLOP: of a "
        "decision, where estimated."
    )


def published_means(table: Sequence[Row]) -> dict[str, float]:
    """Return the mean of the tasks of a table by those who have published them all at BEST_AT steps, highest first."""
    if len(table) < 2 or any(row.env_steps != BEST_AT for row in table):
        return {}
    known = [others(row.task) for row in table]
    shared = [name for name in known[0] if all(name in each for each in known)]
    means = {name: float(np.mean([each[name] for each in known])) for name in shared}
    return dict(sorted(means.items(), key=lambda pair: -pair[1]))


def common(results: Sequence[Result]) -> list[Result]:
    """Return the results on the (task, seed, env_steps) triples that all agents ran."""
    names = agents(results)
    runs = [{(r.task, r.seed, r.env_steps) for r in results if r.agent == agent} for agent in names]
    shared = set.intersection(*runs) if runs else set()
    return [r for r in results if (r.task, r.seed, r.env_steps) in shared]


def comparison(results: Sequence[Result]) -> str:
    """Return a table of agents on the runs all completed; last, each one's interquartile mean over the first one's."""
    tables = {agent: rows(results, agent) for agent in agents(results)}
    first, *_ = tables
    tasks, reference = [row.task for row in tables[first]], pooled(tables[first])
    lines = []
    for agent, table in tables.items():
        score = pooled(table)
        ratio = score.estimate / reference.estimate if score and reference and reference.estimate else None
        pool = score.show("{:.3f}".format) if score else NONE
        lines.append([agent, *(row.ours.show("{:.0f}".format) for row in table), pool, _ratio(ratio)])
    return _table(["agent", *tasks, "interquartile mean", f"against {first}"], lines)


def summary(results: Sequence[Result], agent: str) -> dict:
    """Return an agent's results for JSON: `iqm`, means, and how many tasks reach TD-MPC2's, of how many."""
    table = rows(results, agent)
    score = pooled(table)
    beside = [(row.ours.estimate, row.published) for row in table if row.published is not None]
    return {
        "agent": agent,
        "tasks": [row.task for row in table],
        "seeds": max((len(row.seeds) for row in table), default=0),
        "iqm": score and round(score.estimate, 4),
        "iqm_interval": score and [None if np.isnan(end) else round(end, 4) for end in (score.low, score.high)],
        "at_least_published": [sum(ours >= theirs for ours, theirs in beside), len(beside)],
        "return_mean": {row.task: round(row.ours.estimate, 2) for row in table},
        "policy_return_mean": {row.task: None if row.policy is None else round(row.policy, 2) for row in table},
        "train_seconds": {row.task: row.minutes and round(60 * row.minutes, 1) for row in table},
        "commit": sorted({r.commit for r in results if r.agent == agent}),
    }


def update_readme(path: Path, text: str) -> bool:
    """Write `text` between BEGIN and END in a file; return whether that changed it. Raises UserError, OSError."""
    content = path.read_text(encoding="utf-8")
    head, first, rest = content.partition(BEGIN)
    _, last, tail = rest.partition(END)
    if not last or content.count(BEGIN) + content.count(END) != 2:
        raise UserError(f"{path}: one line '{BEGIN}' and below it one '{END}' are needed")
    changed = f"{head}{first}\n{text.strip()}\n{last}{tail}"
    if changed != content:
        replace_file(path, changed.encode())
    return changed != content


def steps(count: float) -> str:
    """Format a number of environment steps for display: 500, 50k, 1.5M."""
    for unit, suffix in ((1_000_000, "M"), (1000, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{suffix}"
    return f"{count:g}"


def _caption(results: Sequence[Result], agent: str) -> str:
    """Return one line on how the numbers were obtained: seeds, episodes, device, commit, meaning of the brackets."""
    runs = [r for r in results if r.agent == agent]
    seeds, episodes = _span(Counter((r.task, r.env_steps) for r in runs).values()), _span([r.episodes for r in runs])
    devices, commits = (", ".join(sorted({getattr(r, name) for r in runs})) for name in ("device", "commit"))
    return (
        f"Seeds a task: {seeds}; episodes a seed: {episodes}; device: {devices}; commit: {commits}. "
        "Bold: at least TD-MPC2's published return; –: none published at these steps. "
        "Minutes: of training, its evaluations left out, in the mean of the seeds. "
        "Brackets: 95 % bootstrap interval over seeds (of three seeds, their range). "
        "Interquartile mean: of all runs as fractions of the task's ceiling, its interval stratified by task."
    )


def _span(counts: Collection[int]) -> str:
    return "–".join(map(str, sorted({min(counts), max(counts)})))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _return(value: float | None) -> str:
    return _number(value, ".1f", ".0f")


def _ratio(value: float | None) -> str:
    return _number(value, ".2f", ".0f")


def _number(value: float | None, below_10: str = ".1f", else_: str = ".1f") -> str:
    return NONE if value is None else format(value, below_10 if abs(value) < 10 else else_)
