"""Evaluation rollouts: one whole episode in each of several environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from policies.agent import Agent
from policies.alarms import Watch
from policies.training.episodes import Episodes, Step, episode_seed, play

HELD_S = 0.5  # for how long before its end a task must be done to count as done at the end of an episode


@dataclass(frozen=True)
class Rollout:
    """The returns (N,), lengths (N,) in control steps and successes (N,) of N episodes.

    `successes`: whether each episode succeeded at any step; None if the environment does not report it (`is_success`
    in its info). `held`: whether it did for the last HELD_S of the episode, or all of a shorter one; None likewise.
    `tasks`: the task of each episode, if the environment has several; else empty. `quantities`: of each episode the
    named quantities asked for, (L, Q), after each step.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None = None
    tasks: tuple[str, ...] = ()
    quantities: tuple[np.ndarray, ...] = ()
    held: np.ndarray | None = None

    @property
    def success_at_end_rate(self) -> float | None:
        """The fraction of the episodes at whose end the task was done; None if unknown."""
        return None if self.held is None else float(self.held.mean())

    @property
    def success_rate(self) -> float | None:
        """The fraction of the episodes that succeeded; None if unknown."""
        return None if self.successes is None else float(self.successes.mean())


def evaluation_seeds(seed: int, first: int, count: int) -> list[int]:
    """Return the reset seeds of evaluation episodes `first`, `first` + 1, ...; independent of how they are batched."""
    return [episode_seed(seed, 1, number, 0) for number in range(first, first + count)]


def evaluated(env, agent: Agent, seed: int, first: int = 0, stream: int = 1) -> Episodes:
    """Return the evaluation episodes of `seed` from number `first` on, one for each environment of `env`.

    `stream`: as of `episode_seed`, for episodes that are timed or filmed.
    """
    return Episodes(env, agent.model.senses, lambda i, number: episode_seed(seed, stream, first + i, number - 1))


def rollout(
    env,
    agent: Agent,
    seed: int,
    limit: int,
    tick: Callable[[], None] | None = None,
    first: int = 0,
    named: Sequence[str] = (),
    watch: Watch | None = None,
) -> Rollout:
    """Run one episode in each of the N environments of `env`, until all have ended or for `limit` control steps.

    `tick` is called at each step. `first`: the number of the first episode among all evaluation episodes of `seed`.
    `named`: the quantities to keep. `watch` reads the agent's gauges; a `Ladder` acts on them.
    """
    episodes = evaluated(env, agent, seed, first)
    if agent.trace is not None:
        agent.trace.place = lambda: (range(first, first + env.num_envs), episodes.lengths)
    returns, lengths, successes = np.zeros(env.num_envs), np.zeros(env.num_envs, int), np.zeros(env.num_envs, bool)
    held, last = np.zeros(env.num_envs, int), max(1, round(HELD_S * env.metadata.get("render_fps", 1)))
    tasks: tuple[str, ...] = ()
    columns = [[*episodes.units].index(name) for name in named]
    kept: list[list[np.ndarray]] = [[] for _ in returns]
    if watch:
        watch.begin(env.num_envs, getattr(env, "envs", ()))

    def note(step: Step) -> None:
        nonlocal tasks
        running = episodes.number == 1
        returns[running], lengths[running] = episodes.returns[running], episodes.lengths[running]
        successes[running], held[running] = episodes.successes[running], episodes.held[running]
        if watch:
            watch.look(agent, running, step.reward)
        tasks = tasks or episodes.tasks
        for i in running.nonzero()[0] if named else ():
            kept[i].append(episodes.quantities[i, columns].numpy())
        if tick:
            tick()

    play(episodes, agent, limit, note, once=True, act=partial(watch.act, agent) if watch else None)
    quantities = tuple(map(np.stack, kept)) if named else ()
    if not episodes.judged:
        return Rollout(returns, lengths, None, tasks, quantities)
    return Rollout(returns, lengths, successes, tasks, quantities, held >= np.minimum(last, lengths))


def joined(played: Sequence[Rollout]) -> Rollout:
    """Concatenate batches of episodes; successes are known only if they are known in every batch."""

    def whole(name: str) -> Any:
        parts = [getattr(batch, name) for batch in played]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    tasks = tuple(name for batch in played for name in batch.tasks)
    quantities = tuple(each for batch in played for each in batch.quantities)
    return Rollout(whole("returns"), whole("lengths"), whole("successes"), tasks, quantities, whole("held"))


def outcome(planned: Rollout, alone: Rollout) -> dict:
    """Summarise the same episodes, with the planner and with the policy alone, as plain data with rounded returns."""
    names = np.array(planned.tasks)
    means = {name: round(float(planned.returns[names == name].mean()), 3) for name in sorted(set(planned.tasks))}
    return {
        "return_mean": round(float(planned.returns.mean()), 3),
        "return_std": round(float(planned.returns.std()), 3),
        "episodes": len(planned.returns),
        "policy_return_mean": round(float(alone.returns.mean()), 3),
        "tasks": means or None,
        "success_rate": planned.success_rate,
        "policy_success_rate": alone.success_rate,
        "success_at_end_rate": planned.success_at_end_rate,
        "policy_success_at_end_rate": alone.success_at_end_rate,
        "returns": [round(float(r), 3) for r in planned.returns],
    }


def columns(planned: Rollout, alone: Rollout) -> dict[str, float | None]:
    """Return an evaluation's columns of metrics.csv: the same episodes, with the planner and with the policy alone."""
    return {
        "eval_return": float(planned.returns.mean()),
        "eval_std": float(planned.returns.std()),
        "eval_policy_return": float(alone.returns.mean()),
        "eval_success": planned.success_rate,
        "eval_policy_success": alone.success_rate,
    }


def success_rates(planned: Rollout, alone: Rollout) -> str:
    """Format the success rates, with the planner and without, to follow the returns; empty if they are unknown."""
    if planned.success_rate is None or alone.success_rate is None:
        return ""
    ends = ["" if each.held is None else f" ({each.success_at_end_rate:.0%} at the end)" for each in (planned, alone)]
    return f", success {planned.success_rate:.0%}{ends[0]}, policy alone {alone.success_rate:.0%}{ends[1]}"


def in_words(planned: Rollout, alone: Rollout) -> str:
    """Return the mean returns, with the planner and without, for people."""
    mean, std = planned.returns.mean(), planned.returns.std()
    return f"return {mean:.0f} ± {std:.0f}, policy alone {alone.returns.mean():.0f}{success_rates(planned, alone)}"
