"""The episodes of an evaluation, played a few at a time."""

from collections.abc import Callable, Sequence

from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.make import ENDLESS, episode_limit, make_vector
from envs.multi import take_turns
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.training.rollouts import Rollout, joined, rollout

TOGETHER = 10
"""The most environments stepped at once; one of the arm's takes 70 to 90 MB."""


def side_by_side(deadline_ms: float) -> int:
    """Return the most environments to step at once: 1 with a planning deadline (not 0), which is per environment."""
    return 1 if deadline_ms else TOGETHER


class EvaluationEpisodes:
    """The `count` episodes of an evaluation, played in batches of at most `together` environments in this process.

    Each episode depends only on the seed and its number, not on the batches. `ready(envs, first)` is called before each
    batch with its environments and the number of its first episode. `settings`: further arguments of `make_vector`.
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
        env = make_vector(task, min(count, together), processes=False, **settings)
        assert isinstance(env, SyncVectorEnv)
        self.env = env
        self.limit = episode_limit(self.env) or ENDLESS

    @property
    def steps(self) -> int:
        """The most steps of the vector environment that all batches can take."""
        return self.limit * -(-self.count // self.env.num_envs)

    def play(self, agent: Agent, seed: int, tick: Callable[[], None] | None = None) -> Rollout:
        """Play all episodes; `tick` is called at each step of each batch. Raises whatever `ready` raises."""
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
    """Return a vector environment of the first `most` of `env`'s environments, which `env` still owns and closes."""
    if most >= env.num_envs:
        return env

    def given(own: Env) -> Callable[[], Env]:
        return lambda: own

    return SyncVectorEnv([given(own) for own in env.envs[:most]], autoreset_mode=AutoresetMode.DISABLED)
