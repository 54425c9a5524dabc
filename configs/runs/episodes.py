"""The episodes of an evaluation, played a few at a time, and the time that a decision takes."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Float
from torch import Tensor

from envs.make import ENDLESS, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.alarms import Watch
from policies.training.episodes import play
from policies.training.rollouts import Rollout, evaluated, joined, rollout
from worldmodel.observation import Observation

TOGETHER = 10  # the most environments stepped at once; one of the arm's takes 70 to 90 MB
WARM_UP = 5  # decisions left out; the first ones may include compilation


def side_by_side(deadline_ms: float) -> int:
    """Return the most environments to step at once: 1 with a planning deadline (not 0), which is per environment."""
    return 1 if deadline_ms else TOGETHER


class EvaluationEpisodes:
    """The `count` episodes of an evaluation, at most `together` at once; each depends only on seed and number."""

    def __init__(self, task: TaskConfig, count: int, together: int = TOGETHER, **settings):
        self.task, self.count = task, count
        env = make_vector(task, min(count, together), processes=False, **settings)
        assert isinstance(env, SyncVectorEnv)
        self.env = env
        self.limit = self.env.metadata["episode_limit"] or ENDLESS
        self.states: list[Tensor] = []  # of the agent's generator before each batch of the last `play`

    @property
    def steps(self) -> int:
        """The most steps of the vector environment that all batches can take."""
        return self.limit * -(-self.count // self.env.num_envs)

    def play(
        self,
        agent: Agent,
        seed: int,
        tick: Callable[[], None] | None = None,
        named: Sequence[str] = (),
        watch: Watch | None = None,
    ) -> Rollout:
        """Play all episodes; `tick`, `named` and `watch`: as of `rollout`."""
        played, self.states = [], []
        for first in range(0, self.count, self.env.num_envs):
            self.states.append(agent.generator.get_state())
            played.append(rollout(self.batch(first), agent, seed, self.limit, tick, first, named, watch))
        return joined(played)

    def batch(self, first: int) -> SyncVectorEnv:
        """Return the environments of the batch that begins with episode `first`, ready for it; they are still owned."""
        env = _some(self.env, self.count - first)
        if self.task.name == "multi":
            for number, each in enumerate(env.envs, first):  # the tasks take turns
                each.get_wrapper_attr("fix")(number)
        return env

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def _some(env: SyncVectorEnv, most: int) -> SyncVectorEnv:
    """Return a vector environment of the first `most` of `env`'s environments, which `env` still owns and closes."""
    if most >= env.num_envs:
        return env

    def given(own: Env) -> Callable[[], Env]:
        return lambda: own

    return SyncVectorEnv([given(own) for own in env.envs[:most]], autoreset_mode=AutoresetMode.DISABLED)


def measure(task: TaskConfig, senses: Senses, agent: Agent, decisions: int = 100) -> Float[np.ndarray, " N"]:
    """Let the agent act in an environment; return the milliseconds of its decisions, without the first WARM_UP."""
    env, most = make_vector(task, 1, senses=senses), decisions + WARM_UP
    times: list[float] = []

    def timed(observation: Observation, own: Tensor) -> Tensor:
        before, started = agent.totals.decisions, time.perf_counter()
        action = agent.act(observation, own)
        if agent.totals.decisions > before:
            times.append(time.perf_counter() - started)
        return action

    try:
        play(evaluated(env, agent, 0, stream=2), agent, most * agent.most, lambda step: len(times) == most, act=timed)
    finally:
        env.close()
    return 1000 * np.array(times[WARM_UP:])
