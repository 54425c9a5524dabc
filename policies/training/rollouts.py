"""Evaluation rollouts: one whole episode in each of several environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policies.agent import Agent
from policies.words import WORDS
from worldmodel.senses import LANGUAGE_KEY, is_image, mask


@dataclass(frozen=True)
class Rollout:
    """The returns (N,), lengths (N,) in control steps and successes (N,) of N episodes.

    `successes`: whether each episode succeeded at any step; None if the environment does not report it (`is_success`
    in its info). `tasks`: the task of each episode, if the environment has several; else empty.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None = None
    tasks: tuple[str, ...] = ()

    @property
    def success_rate(self) -> float | None:
        """The fraction of the episodes that succeeded; None if unknown."""
        return None if self.successes is None else float(self.successes.mean())


def episode_seed(seed: int, stream: int, env: int, episode: int) -> int:
    """Return the reset seed of one environment's episode; `stream` 0 (training) and 1 (evaluation) are independent."""
    return int(np.random.SeedSequence([seed, stream, env, episode]).generate_state(1)[0])


def episode_seeds(seed: int, stream: int, episode: int, count: int) -> list[int]:
    """Return the `episode_seed` of environments 0 to `count` - 1."""
    return [episode_seed(seed, stream, env, episode) for env in range(count)]


def evaluation_seeds(seed: int, first: int, count: int) -> list[int]:
    """Return the reset seeds of evaluation episodes `first`, `first` + 1, ...; independent of how they are batched."""
    return [episode_seed(seed, 1, number, 0) for number in range(first, first + count)]


Value = np.ndarray | str | tuple[str, ...]
"""What an observation holds under one key."""


def as_tensors(observation: dict[str, Value]) -> dict[str, Tensor]:
    """Copy an observation into tensors: frames as uint8, sentences as their vectors, everything else as float32."""
    tensors = {}
    for key, value in observation.items():
        if key == LANGUAGE_KEY:
            tensors[key] = _said(value, observation.get(mask(key)))
        else:
            tensors[key] = torch.from_numpy(np.array(value, dtype=np.uint8 if is_image(key) else np.float32))
    return tensors


def _said(value: Value, there: Value | None) -> Tensor:
    """Encode the sentence of one environment, (T,), or of B, (B, T); zeros where `there`, one flag each, is false."""
    strings = (value,) if isinstance(value, str) else tuple(value)
    vectors = WORDS.vectors(strings, None if there is None else np.reshape(there, -1))
    return vectors[0] if isinstance(value, str) else vectors


def succeeded(info: dict) -> np.ndarray | None:
    """Return which of N environments (N,) report success in `info`; None if success is not reported."""
    return info["is_success"].astype(bool) if "is_success" in info else None


def rollout(
    env, agent: Agent, seed: int, limit: int, tick: Callable[[], None] | None = None, first: int = 0
) -> Rollout:
    """Run one episode in each of the N environments of `env`, until all have ended or for `limit` control steps.

    An environment that ends early is stepped with action 0, which does not count, until all have ended. `tick` is
    called at each step. `first`: the number of the first episode among all evaluation episodes of `seed`.
    """
    count = env.num_envs
    observation, info = env.reset(seed=evaluation_seeds(seed, first, count))
    tasks = tuple(info.get("task", ()))
    agent.reset(torch.ones(count, dtype=torch.bool))
    returns, lengths = np.zeros(count), np.zeros(count, dtype=int)
    alive = np.ones(count, dtype=bool)
    successes = None
    for _ in range(limit):
        action = agent.act(as_tensors(observation), torch.from_numpy(alive)).numpy().copy()
        action[~alive] = 0
        observation, reward, terminated, truncated, info = env.step(action)
        returns += reward * alive
        lengths += alive
        if (now := succeeded(info)) is not None:
            successes = now & alive if successes is None else successes | (now & alive)
        ended = terminated | truncated
        alive &= ~ended
        if tick:
            tick()
        if not alive.any():
            break
        if ended.any():
            # An ended environment must be reset before the next step; what follows in it is not counted.
            observation, _ = env.reset(seed=episode_seeds(seed, 1, 1, count), options={"reset_mask": ended})
    return Rollout(returns, lengths, successes, tasks)


def joined(played: Sequence[Rollout]) -> Rollout:
    """Concatenate batches of episodes; successes are known only if they are known in every batch."""
    told = [batch.successes for batch in played if batch.successes is not None]
    return Rollout(
        np.concatenate([batch.returns for batch in played]),
        np.concatenate([batch.lengths for batch in played]),
        np.concatenate(told) if len(told) == len(played) else None,
        tuple(name for batch in played for name in batch.tasks),
    )


def by_task(played: Rollout) -> dict[str, float]:
    """Return the mean return of each task, by name; empty if the environment has only one."""
    names = np.array(played.tasks)
    return {str(name): float(played.returns[names == name].mean()) for name in sorted(set(played.tasks))}


def outcome(planned: Rollout, alone: Rollout) -> dict:
    """Summarise the same episodes, with the planner and with the policy alone, as plain data with rounded returns."""
    return {
        "return_mean": round(float(planned.returns.mean()), 3),
        "return_std": round(float(planned.returns.std()), 3),
        "episodes": len(planned.returns),
        "policy_return_mean": round(float(alone.returns.mean()), 3),
        "tasks": {name: round(value, 3) for name, value in by_task(planned).items()} or None,
        "success_rate": planned.success_rate,
        "policy_success_rate": alone.success_rate,
        "returns": [round(float(r), 3) for r in planned.returns],
    }


def success_rates(planned: Rollout, alone: Rollout) -> str:
    """Format the success rates, with the planner and without, to follow the returns; empty if they are unknown."""
    if planned.success_rate is None or alone.success_rate is None:
        return ""
    return f", success {planned.success_rate:.0%}, policy alone {alone.success_rate:.0%}"
