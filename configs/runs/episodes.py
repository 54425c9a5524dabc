"""The episodes of an evaluation, a few at a time."""

from collections.abc import Callable, Sequence

from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.make import ENDLESS, episode_limit, make_vector
from envs.multi import take_turns
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.training.rollouts import Rollout, joined, rollout

TOGETHER = 10
"""Environments at most, of which one of the arm's takes 70 to 90 MB."""


def side_by_side(deadline_ms: float) -> int:
    """Environments at most where a plan has that deadline (0: none), which is for one environment's plan."""
    return 1 if deadline_ms else TOGETHER


class EvaluationEpisodes:
    """The `count` episodes of an evaluation, played in at most `together` environments of this process.

    Which episodes these are depends on the seed and on their number alone. `ready` is called with the environments of
    each batch before it, and with the number of their first episode. `settings`: what else `make_vector` takes.
    """

    def __init__(
        self,
        task: TaskConfig,
        count: int,
        together: int = TOGETHER,
        ready: Callable[[Sequence[Env], int], None] | None = None,
        **settings,
    ):
        self.task, self.count, self.ready = task, count, ready
        self.env = make_vector(task, min(count, together), processes=False, **settings)
        self.limit = episode_limit(self.env) or ENDLESS

    @property
    def steps(self) -> int:
        """Control steps of all batches, at most."""
        return self.limit * -(-self.count // self.env.num_envs)

    def play(self, agent: Agent, seed: int, tick: Callable[[], None] | None = None) -> Rollout:
        """Play them all; `tick` is called at each step of each batch. Raises what `ready` raises."""
        played = []
        for first in range(0, self.count, self.env.num_envs):
            env = _some(self.env, self.count - first)
            if self.task.name == "multi":
                take_turns(env.envs, first)
            if self.ready is not None:
                self.ready(env.envs, first)
            played.append(rollout(env, agent, seed, self.limit, tick, first))
        return joined(played)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def _some(env: SyncVectorEnv, most: int) -> SyncVectorEnv:
    """A vector of the first environments of another, which stays theirs to close."""
    if most >= env.num_envs:
        return env
    return SyncVectorEnv([lambda own=own: own for own in env.envs[:most]], autoreset_mode=AutoresetMode.DISABLED)
