"""The training loop: act, remember, learn; evaluated and saved at intervals, resumable at any step."""

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
    """A training episode that ended: its return, its length in control steps, and the newest update's metrics.

    `demonstrated_steps`: how many of its steps an expert took.
    `episode_success`: 1 if it succeeded at any step, 0 if not; None where the environment does not tell.
    """

    episode_return: float
    episode_length: int
    metrics: dict[str, float]
    demonstrated_steps: int = 0
    episode_success: int | None = None


class Trainer:
    """Steps E environments and learns; everything its future depends on is in `state_dict`.

    An expert's steps (`policies.training.experts`) are stored like any others, but the policy imitates them whatever
    their value, and a share of each batch, `learning.demonstrated`, begins with one of them.
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
        self.learner, self.agent, self.replay, self.config = learner, agent, replay, config
        self.curve, self.generator = agent.curve, agent.generator
        self.action_repeat, self.step_discount = action_repeat, step_discount
        self.running = RunningEpisodes(env, self.curve.action_size, config)
        self.usual = agent.planner.config
        self.steps = 0  # control steps, over all environments
        self.metrics = torch.full((len(UPDATE_METRICS),), torch.nan)

    @property
    def env_steps(self) -> int:
        """Environment steps so far: control steps times the action repeat."""
        return self.steps * self.action_repeat

    @property
    def count(self) -> int:
        """E, the environments."""
        return len(self.running.episode)

    @property
    def wide(self) -> bool:
        """Whether what is searched and explored is wider than the settings say."""
        return self.agent.planner.config != self.usual

    def run(self, until: int) -> Iterator[EpisodeEnd | None]:
        """Train until `until` environment steps; yields after every step, with the episode that ended in it, if any."""
        if not self.running.observation:
            self._begin(np.ones(self.count, dtype=bool))
        while self.env_steps < until:
            ended = self._step()
            self._learn()
            yield from ended or [None]

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
        """What all environments do (E, A), the tokens that the planner chose, where it did, and where an expert did."""
        experts, episode, observation = self.running.experts, self.running.episode, self.running.observation
        experts.take_over(self.generator)
        driving = experts.driving(episode)
        if self.steps < self.config.seed_steps or driving.all():
            self.agent.watch(observation)
            normal = self.agent.noise.draw(self.count, self.curve.action_size)
            action, planned_tokens = torch.erf(normal / math.sqrt(2)), [None] * self.count  # uniform in [-1, 1]
        else:
            action = self.agent.act(observation, torch.from_numpy(~driving))
            planned_tokens = self.agent.planned_tokens
        action, demonstrated = experts.instead(action, episode)
        return action, planned_tokens, demonstrated

    def _begin(self, ended: np.ndarray) -> None:
        """Begin a new episode in the environments (E,) that ended."""
        self.running.begin(ended)
        self._widen(self.config.scarcity > 0 and self.replay.rewarded() < self.config.scarcity)
        for i in np.flatnonzero(ended):
            self.replay.start(int(i), self.running.of(int(i)))
        self._measure(ended)
        self.agent.reset(torch.from_numpy(ended))

    def _widen(self, wide: bool) -> None:
        """Search and explore all of the range of actions from now on, or as much of it as the settings say."""
        spread = max(1.0, self.usual.spread) if wide else self.usual.spread
        self.agent.planner.config = replace(self.usual, spread=spread)

    def _measure(self, chosen: np.ndarray) -> None:
        """Take the states of the environments (E,) chosen into the statistics, those that are there."""
        observation = self.running.observation
        if STATE_KEY in observation:
            here = torch.from_numpy(chosen)
            if (shown := observation.get(mask(STATE_KEY))) is not None:
                here = here & (shown[:, 0] > 0)
            if bool(here.any()):
                self.learner.model.normaliser.observe(observation[STATE_KEY][here])

    def _learn(self) -> None:
        """The updates that the steps so far allow: none while seeding, then all that seeding saved up."""
        if self.steps < self.config.seed_steps:
            return
        per_step = self.learner.config.updates_per_token / self.curve.length
        for _ in range(int(self.steps * per_step) - self.learner.updates):
            self.metrics = self.learner.update(self._draw().to(self.learner.model.device), self.generator)

    def _draw(self) -> Batch:
        """A batch of windows of the replay."""
        config = self.learner.config
        windows = config.batch, config.horizon, self.curve.length
        return self._batch(sample_windows(self.replay, *windows, self.generator, config.demonstrated))

    def _batch(self, window: Window) -> Batch:
        """Steps to tokens: control points, reward discounted over the token, whether the episode goes on."""
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
        """What one sense gave (H+1, B, ...), frames as they might have been as well: moved."""
        if not is_image(key):
            return value
        return shift(value.flatten(0, 1), self.learner.config.shift, self.generator).view_as(value)

    def state_dict(self) -> dict[str, Tensor]:
        """Counters, random state and the running episodes' progress."""
        return self.running.state_dict() | {
            "steps": torch.tensor(self.steps),
            "wide": torch.tensor(self.wide),
            "metrics": self.metrics.clone(),
            "generator": self.generator.get_state(),
            **{f"agent.{name}": t for name, t in self.agent.state_dict().items()},
        }

    def load_state_dict(self, saved: dict[str, Tensor], warn: Callable[[str], None]) -> None:
        """Take back what `state_dict` gave; the replay must hold its steps again.

        The environments are brought back to where they were by taking the running episodes' actions once more from
        the same seeds. Where one does not come out at the same observation (it is not deterministic), or the replay no
        longer holds all its actions, `warn` is told and new episodes begin.
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
