"""Decision speed of an agent in a single environment, as on a robot."""

import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from envs.make import make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.training.episodes import Episodes, episode_seed, play
from worldmodel.observation import Observation

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
    env, most = make_vector(task, 1, senses=senses), decisions + WARM_UP
    times: list[float] = []

    def timed(observation: Observation, own: Tensor) -> Tensor:
        before, started = agent.totals.decisions, time.perf_counter()
        action = agent.act(observation, own)
        if agent.totals.decisions > before:
            times.append(time.perf_counter() - started)
        return action

    try:
        episodes = Episodes(env, agent.model.senses, lambda i, number: episode_seed(0, 2, i, number - 1))
        play(episodes, agent, most * agent.most, lambda step: len(times) == most, act=timed)
    finally:
        env.close()
    return Pace(1000 * np.array(times[WARM_UP:]))
