"""The training loop: act, store, learn. It can be paused after any step to evaluate or save, and resumed."""

import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.agent import Agent
from policies.settings import LoopConfig
from policies.training.episodes import Episodes, Experts, episode_seed
from worldmodel import registry
from worldmodel.encoder import shifted
from worldmodel.learner import Learner
from worldmodel.losses import Batch
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.replay import Replay, Window, sample_windows

Row = dict[str, float | None]
"""A training episode that ended, by the columns of metrics.csv: its return, its length in control steps; 1 if it
succeeded at any step, else 0, None if that is not known; how many of its steps an expert took; and, as means over the
updates since an episode ended last (NaN without any), `Learner.metric_names` and the plans' deviation `plan_std`."""


class Trainer:
    """Steps E environments and learns from them.

    env -> Observation -> agent.act -> env.step -> replay.add -> learner.update: `step` is the algorithm.

    An expert's steps (`policies.training.episodes`) are stored like all others, but the policy imitates them whatever
    their value, and `learning.demonstration_fraction` of each batch begins with one of them, if there are any.
    """

    def __init__(
        self,
        env,
        learner: Learner,
        agent: Agent,
        replay: Replay,
        config: LoopConfig,
        action_repeat: int,
        step_discount: float,
        sampler: str = "uniform",
        reward_free: bool = False,
    ):
        """Make a trainer; the agent explores, and its generator is the source of all randomness but the episodes'.

        `reward_free`: the environments give no reward; learn from `novelty` instead. `sampler`: what draws windows from
        the replay, by its name in `worldmodel.registry`.
        """
        self.learner, self.agent, self.replay, self.config = learner, agent, replay, config
        self.curve, self.generator = agent.curve, agent.generator
        self.sample = registry.find("sampler", sampler) or sample_windows
        self.action_repeat, self.step_discount, self.reward_free = action_repeat, step_discount, reward_free
        self.experts = Experts(env.num_envs, self.curve.action_size, config)
        seed = functools.partial(episode_seed, config.seed, 0)
        self.episodes = Episodes(env, learner.model.senses, seed, self.experts)
        self.steps = 0  # control steps, over all environments
        self.stopping: Callable[[], bool] = lambda: False
        self.sums = torch.zeros(len(learner.metric_names) + 2)  # of metrics, plan_std and 1, since an episode ended

    @property
    def env_steps(self) -> int:
        """Environment steps so far: control steps times the action repeat."""
        return self.steps * self.action_repeat

    @property
    def due(self) -> int:
        """Updates that the steps so far ask for."""
        if self.steps < self.config.seed_steps or not self.replay.steps:
            return self.learner.updates
        return max(self.learner.updates, int(self.steps * (self.learner.config.updates_per_token / self.curve.length)))

    def step(self) -> list[Row]:
        """Act once everywhere, store what followed, but for faults, and learn; return a row for each episode's end."""
        episodes = self.episodes
        if episodes.observation is None:
            self._begin(episodes.everywhere)
        action, planned, demonstrated = self._act(episodes.now)
        token = None if self.agent.decision is None else self.agent.decision.tokens[0]
        step = episodes.step(action)
        known = ~step.faulty
        named = episodes.quantities if episodes.units else None
        took = action, step.reward, step.terminated, token, planned, demonstrated, known, named
        self.replay.add(step.observation, *took)
        self.learner.model.observe(step.observation.map(lambda x: x[known]))
        self.steps += len(action)
        ends = self._ends(step.ended & known)
        if bool(step.ended.any()):
            self._begin(step.ended)
        self.learn()
        return ends

    def _act(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return the actions (E, A), where (E,) the planner has just chosen a token, and where (E,) experts act."""
        experts, number = self.experts, self.episodes.number
        experts.take_over(self.generator)
        driving = experts.driving(number)
        if self.steps < self.config.seed_steps or driving.all():
            action = self.agent.act_at_random(observation)
        else:
            action = self.agent.act(observation, torch.from_numpy(~driving))
        action, demonstrated = experts.instead(action, number)
        return action, self.agent.planned, demonstrated

    def _begin(self, begun: Bool[Tensor, " E"]) -> None:
        """Begin a new episode in the environments marked."""
        self.episodes.begin(begun)
        self.agent.wide = (
            self.config.sparse_reward_threshold > 0 and self.replay.rewarded() < self.config.sparse_reward_threshold
        )
        self.replay.start(begun, self.episodes.now, self.episodes.quantities if self.episodes.units else None)
        self.learner.model.observe(self.episodes.now.map(lambda x: x[begun]))
        self.agent.reset(begun)

    def _ends(self, ended: Bool[Tensor, " E"]) -> list[Row]:
        """Describe the episodes that ended."""
        episodes = self.episodes
        if not bool(ended.any()):
            return []
        means = (self.sums[:-1] / self.sums[-1]).tolist()
        metrics = dict(zip((*self.learner.metric_names, "plan_std"), means, strict=True))
        self.sums.zero_()
        return [
            {"episode_return": float(episodes.returns[i]), "episode_length": int(episodes.lengths[i])}
            | {"episode_success": int(episodes.successes[i]) if episodes.judged else None}
            | {"episode_driven": int(self.experts.steps[i])}
            | metrics
            for i in ended.nonzero()[:, 0].tolist()
        ]

    def learn(self) -> None:
        """Run the updates now due, until `stopping()`; whoever goes on from there calls this first."""
        while self.learner.updates < self.due:
            if self.stopping():
                return
            metrics = self.learner.update(self._draw().to(self.learner.model.device), self.generator)
            self.sums += torch.cat([metrics.cpu(), torch.tensor([self.agent.std, 1.0])])

    def _draw(self) -> Batch:
        """Sample a batch of windows from the replay."""
        config = self.learner.config
        windows = config.batch_size, config.horizon, self.curve.length
        return self._batch(self.sample(self.replay, *windows, self.generator, config.demonstration_fraction))

    def _batch(self, window: Window) -> Batch:
        """Convert control steps to tokens: control points, discounted rewards, whether the episode continues."""
        discount = self.step_discount ** torch.arange(self.curve.length)
        token = self.curve.encode(window.action)
        moved = shifted(window.seen, self.learner.config.random_shift_px, self.generator)
        seen, device = self.learner.model.preprocess(moved), self.learner.model.device
        reward = (window.reward * discount).sum(-1)
        return Batch(
            seen=seen,
            token=token,
            reward=novelty(self.learner.model, seen, token.to(device)) if self.reward_free else reward,
            continues=1 - window.terminated.float(),
            valid=window.valid.float(),
            planned_token=torch.where(window.was_planned.unsqueeze(1), window.planned_token, token[0]),
            demonstrated=window.demonstrated.float(),
        )

    def state_dict(self) -> dict:
        """Return all that a resumed run needs, by the file that holds it: acting weights, learner, replay, loop."""
        return {
            "model": self.learner.acting.state_dict(),
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "loop": {
                "steps": torch.tensor(self.steps),
                "metrics": self.sums.clone(),
                "generator": self.generator.get_state(),
                "episodes": self.episodes.state_dict(),
                "agent": self.agent.state_dict(),
            },
        }

    def load_state_dict(self, saved: Mapping, warn: Callable[[str], None]) -> None:
        """Restore what `state_dict` returned. Raises ReplayMismatch if the replay is another one.

        The environments are brought back to where they were by repeating the running episodes' actions from the same
        seeds. If one does not arrive at the same observation (it is not deterministic), or the replay no longer holds
        all of its actions, `warn` is called and new episodes begin in all environments.
        """
        self.learner.acting.load_state_dict(saved["model"])
        self.learner.load_state_dict(saved["learner"])
        self.replay.load_state_dict(saved["replay"])
        loop = saved["loop"]
        self.steps = int(loop["steps"])
        if loop["metrics"].shape == self.sums.shape:  # else empty until the next update: metrics have been added
            self.sums = loop["metrics"].clone()
        self.episodes.load_state_dict(loop["episodes"])
        self.agent.load_state_dict(loop["agent"])
        if fault := self.episodes.retrace(self.replay):
            warn(f"{fault}; new episodes begin")
            self._begin(self.episodes.everywhere)
        self.generator.set_state(loop["generator"])


LARGEST_NOVELTY = 5.0


@torch.no_grad()
def novelty(model: WorldModel, seen: Observation, token: Float[Tensor, "H B P"]) -> Float[Tensor, "H B"]:
    """Return how badly the model predicts each token's outcome: the squared error of the next latent over its mean.

    A reward for what the model does not know yet, as in Pathak et al. 2017 (arXiv 1705.05363), eq. 6, at most
    LARGEST_NOVELTY. `seen` (H+1, B): as `WorldModel.preprocess` returns it.
    """
    z = model.encode(seen.map(lambda x: x.flatten(0, 1))).unflatten(0, (len(token) + 1, -1))
    following = model.next(model.transition_features(z[:-1].flatten(0, 1), token.flatten(0, 1)))
    error = (following.view_as(z[1:]) - z[1:]).square().mean(-1)
    return (error / error.mean().clamp(min=1e-12)).clamp(max=LARGEST_NOVELTY)
