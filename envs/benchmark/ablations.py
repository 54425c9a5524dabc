"""Comparison of agents: one row per agent, one column per task, on the runs that all agents completed."""

from collections.abc import Sequence

import numpy as np

from envs.benchmark import anchors
from envs.benchmark.results import Result, latest
from envs.benchmark.statistics import Interval, mean_interval, normalise, stratified_interval


def common(results: Sequence[Result], agents: Sequence[str]) -> list[Result]:
    """Return the results of `agents` on the (task, seed, env_steps) triples that all of them ran."""
    kept = [result for result in latest(list(results)) if result.agent in agents]
    runs = [{(r.task, r.seed, r.env_steps) for r in kept if r.agent == agent} for agent in agents]
    shared = set.intersection(*runs) if runs else set()
    return [r for r in kept if (r.task, r.seed, r.env_steps) in shared]


def markdown(results: Sequence[Result], agents: Sequence[str]) -> str:
    """Return a Markdown table: mean return over seeds [95 % bootstrap interval] per task, and interquartile mean.

    The last column is the ratio of each agent's interquartile mean to the first agent's. The interquartile mean is
    taken over normalised returns of the tasks whose scale is known.
    Raises ValueError if there is no run that all agents completed.
    """
    results = common(results, agents)
    if not results:
        raise ValueError(f"no task and seed that all of these ran: {', '.join(agents)}")
    tasks = sorted({(r.task, r.env_steps) for r in results})
    head = ["agent", *(task for task, _ in tasks), "interquartile mean", f"against {agents[0]}"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    reference = None
    for agent in agents:
        scores = [_returns(results, agent, task) for task in tasks]
        cells = [_show(mean_interval(returns, np.random.default_rng(0)), ".0f") for returns in scores]
        pairs = zip(scores, map(anchors.scale, (task for task, _ in tasks)), strict=True)
        scaled = [normalise(returns, full) for returns, full in pairs if full]
        if scaled:
            pooled = stratified_interval(scaled, np.random.default_rng(0))
            reference = pooled.estimate if reference is None else reference
            cells += [_show(pooled, ".3f"), f"{pooled.estimate / reference:.2f}" if reference else "–"]
        else:
            cells += ["–", "–"]
        lines.append([agent, *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _returns(results: Sequence[Result], agent: str, task: tuple[str, int]) -> np.ndarray:
    runs = [r for r in results if r.agent == agent and (r.task, r.env_steps) == task]
    return np.array([r.return_mean for r in sorted(runs, key=lambda r: r.seed)])


def _show(interval: Interval, form: str) -> str:
    ends = "" if np.isnan(interval.low) else f" [{interval.low:{form}}, {interval.high:{form}}]"
    return f"{interval.estimate:{form}}{ends}"
