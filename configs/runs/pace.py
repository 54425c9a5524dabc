"""Decision speed of an agent in a single environment, as on a robot."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from envs.make import make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.training.rollouts import as_tensors, episode_seeds

WARM_UP = 5  # decisions left out; the first ones may include compilation


@dataclass(frozen=True)
class Pace:
    """Milliseconds (N,) that each of N decisions took the agent itself, from an observation to a token."""

    milliseconds: np.ndarray

    @property
    def per_second(self) -> float:
        """Decisions per second of the agent's own time: the inverse of the mean."""
        return 1000 / float(self.milliseconds.mean())

    def percentile(self, share: float) -> float:
        """Return the `share`-th percentile, in milliseconds."""
        return float(np.percentile(self.milliseconds, share))


def measure(task: TaskConfig, senses: Senses, agent: Agent, decisions: int = 100) -> Pace:
    """Let the agent act in one environment and time `decisions` of its decisions; the environment's time is left out.

    The first WARM_UP decisions are not counted.
    """
    env = make_vector(task, 1, senses=senses)
    episode = 0
    times: list[float] = []
    try:
        observation, _ = env.reset(seed=episode_seeds(0, 2, episode, 1)[0])
        while len(times) < decisions + WARM_UP:
            due = bool(agent.due(1).any())
            seen = as_tensors(observation)
            started = time.perf_counter()
            action = agent.act(seen)
            if due:
                times.append(time.perf_counter() - started)
            observation, _, terminated, truncated, _ = env.step(action.numpy())
            if bool((terminated | truncated).any()):
                episode += 1
                observation, _ = env.reset(seed=episode_seeds(0, 2, episode, 1)[0])
                agent.reset(torch.ones(1, dtype=torch.bool))
    finally:
        env.close()
    return Pace(1000 * np.array(times[WARM_UP:]))
