"""The training loop: act, store, learn. It can be paused after any step to evaluate or save, and resumed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from policies.agent import Agent
from policies.settings import LoopConfig
from policies.storage.folders import part
from policies.training.episodes import RunningEpisodes
from worldmodel.batch import Batch
from worldmodel.learner import UPDATE_METRICS, Learner
from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY, is_image, mask
from worldmodel.vision import shift
from worldmodel.windows import Window, sample_windows


@dataclass(frozen=True)
class EpisodeEnd:
    """A finished training episode: its return, its length in control steps, and the metrics of the latest update.

    `demonstrated_steps`: how many of its steps an expert took.
    `episode_success`: 1 if it succeeded at any step, else 0; None if the environment does not report success.
    """

    episode_return: float
    episode_length: int
    metrics: dict[str, float]
    demonstrated_steps: int = 0
    episode_success: int | None = None


class Trainer:
    """Steps E environments and learns from them.

    To resume, it needs its `state_dict`, those of the learner and the replay, and the weights of the acting model.

    An expert's steps (`policies.training.experts`) are stored like all others, but the policy imitates them whatever
    their value, and a fraction `learning.demonstrated` of each batch begins with one of them, if there are any.
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
    ):
        if agent.planner is None or agent.noise is None:
            raise ValueError("the agent of a training loop plans and explores")
        self.learner, self.agent, self.replay, self.config = learner, agent, replay, config
        self.planner, self.noise = agent.planner, agent.noise
        self.curve, self.generator = agent.curve, agent.generator
        self.action_repeat, self.step_discount = action_repeat, step_discount
        self.running = RunningEpisodes(env, self.curve.action_size, config)
        self.usual = self.planner.config
        self.steps = 0  # control steps, over all environments
        self.metrics = torch.full((len(UPDATE_METRICS),), torch.nan)

    @property
    def env_steps(self) -> int:
        """Environment steps so far: control steps times the action repeat."""
        return self.steps * self.action_repeat

    @property
    def count(self) -> int:
        """E, the number of environments."""
        return len(self.running.episode)

    @property
    def wide(self) -> bool:
        """Whether planning and exploration are currently wider than the settings say (`ActingConfig.scarcity`)."""
        return self.planner.config != self.usual

    def run(self, until: int) -> Iterator[EpisodeEnd | None]:
        """Train until `until` environment steps; after each step, yield every episode that ended in it, or None."""
        if not self.running.observation:
            self._begin(np.ones(self.count, dtype=bool))
        while self.env_steps < until:
            ended = self._step()
            self._learn()
            yield from ended or (None,)

    def _step(self) -> list[EpisodeEnd]:
        running = self.running
        action, planned_tokens, demonstrated = self._act()
        reward, terminated, truncated = running.step(action.numpy())
        for i in range(self.count):
            step = action[i], float(reward[i]), running.of(i), bool(terminated[i])
            self.replay.add(i, *step, planned_tokens[i], bool(demonstrated[i]))
        self._measure(np.ones(self.count, dtype=bool))
        self.steps += self.count
        ended = terminated | truncated
        if not ended.any():
            return []
        metrics = dict(zip(UPDATE_METRICS, self.metrics.tolist(), strict=True))
        metrics["plan_spread"] = self.agent.spread
        ends = [
            EpisodeEnd(
                float(running.returns[i]),
                int(running.lengths[i]),
                metrics,
                int(running.experts.steps[i]),
                int(running.successes[i]) if running.judged else None,
            )
            for i in np.flatnonzero(ended)
        ]
        self._begin(ended)
        return ends

    def _act(self) -> tuple[Tensor, list[Tensor | None], Tensor]:
        """Return the actions (E, A), each environment's planned token or None, and where (E,) experts act."""
        experts, episode, observation = self.running.experts, self.running.episode, self.running.observation
        experts.take_over(self.generator)
        driving = experts.driving(episode)
        if self.steps < self.config.seed_steps or driving.all():
            self.agent.watch(observation)
            normal = self.noise.draw(self.count, self.curve.action_size)
            action = torch.erf(normal / math.sqrt(2))  # uniform in [-1, 1]
            planned_tokens: list[Tensor | None] = [None] * self.count
        else:
            action = self.agent.act(observation, torch.from_numpy(~driving))
            planned_tokens = self.agent.planned_tokens
        action, demonstrated = experts.instead(action, episode)
        return action, planned_tokens, demonstrated

    def _begin(self, ended: np.ndarray) -> None:
        """Begin a new episode in the environments (E,) marked in `ended`."""
        self.running.begin(ended)
        self._widen(self.config.scarcity > 0 and self.replay.rewarded() < self.config.scarcity)
        for i in np.flatnonzero(ended):
            self.replay.start(int(i), self.running.of(int(i)))
        self._measure(ended)
        self.agent.reset(torch.from_numpy(ended))

    def _widen(self, wide: bool) -> None:
        """From now on plan and explore over the whole range of actions, or as far as the settings say."""
        spread = max(1.0, self.usual.spread) if wide else self.usual.spread
        self.planner.config = replace(self.usual, spread=spread)

    def _measure(self, chosen: np.ndarray) -> None:
        """Update the normaliser with the states of the `chosen` environments (E,), where the state is present."""
        observation = self.running.observation
        if STATE_KEY in observation:
            here = torch.from_numpy(chosen)
            if (shown := observation.get(mask(STATE_KEY))) is not None:
                here = here & (shown[:, 0] > 0)
            if bool(here.any()):
                self.learner.model.normaliser.observe(observation[STATE_KEY][here])

    def _learn(self) -> None:
        """Run the updates now due: none during the seed steps, then all that those have accumulated."""
        if self.steps < self.config.seed_steps:
            return
        per_step = self.learner.config.updates_per_token / self.curve.length
        for _ in range(int(self.steps * per_step) - self.learner.updates):
            self.metrics = self.learner.update(self._draw().to(self.learner.model.device), self.generator)

    def _draw(self) -> Batch:
        """Sample a batch of windows from the replay."""
        config = self.learner.config
        windows = config.batch, config.horizon, self.curve.length
        return self._batch(sample_windows(self.replay, *windows, self.generator, config.demonstrated))

    def _batch(self, window: Window) -> Batch:
        """Convert control steps to tokens: control points, discounted rewards, whether the episode continues."""
        discount = self.step_discount ** torch.arange(self.curve.length)
        token = self.curve.encode(window.action)
        return Batch(
            seen=self.learner.model.prepare({key: self._augmented(key, value) for key, value in window.seen.items()}),
            token=token,
            reward=(window.reward * discount).sum(-1),
            continues=1 - window.terminated.float(),
            valid=window.valid.float(),
            planned_token=torch.where(window.was_planned.unsqueeze(1), window.planned_token, token[0]),
            demonstrated=window.demonstrated.float(),
        )

    def _augmented(self, key: str, value: Tensor) -> Tensor:
        """Augment one sense (H+1, B, ...): shift frames at random, return anything else unchanged."""
        if not is_image(key):
            return value
        return shift(value.flatten(0, 1), self.learner.config.shift, self.generator).view_as(value)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counters, random state, agent state and progress of the running episodes."""
        return self.running.state_dict() | {
            "steps": torch.tensor(self.steps),
            "wide": torch.tensor(self.wide),
            "metrics": self.metrics.clone(),
            "generator": self.generator.get_state(),
            **{f"agent.{name}": t for name, t in self.agent.state_dict().items()},
        }

    def load_state_dict(self, saved: dict[str, Tensor], warn: Callable[[str], None]) -> None:
        """Restore what `state_dict` returned; the replay must have been restored before.

        The environments are brought back to where they were by repeating the running episodes' actions from the same
        seeds. If one does not arrive at the same observation (it is not deterministic), or the replay no longer holds
        all of its actions, `warn` is called and new episodes begin in all environments.
        """
        self.steps = int(saved["steps"])
        self._widen(bool(saved["wide"]))
        self.running.load_state_dict(saved)
        self.metrics = saved["metrics"].clone()
        self.agent.load_state_dict(part(saved, "agent."))
        if fault := self.running.retrace(self.replay):
            warn(f"{fault}; new episodes begin")
            self._begin(np.ones(self.count, dtype=bool))
        self.generator.set_state(saved["generator"])
