"""Learning from recordings alone: nobody acts, and a step is an update."""

from dataclasses import replace

import torch

from policies.training.trainer import EpisodeEnd, Trainer
from worldmodel.losses import Batch
from worldmodel.observation import Observation
from worldmodel.replay import Window
from worldmodel.senses import STATE_KEY


class OfflineTrainer(Trainer):
    """A trainer whose replay holds all that there will ever be; its environment is never stepped.

    The policy only imitates, so the value that is learned is that of what was done: no action that nobody tried is ever
    chosen for its value. Steps that are not `demonstrated` (of episodes that failed) teach dynamics and value alone.
    """

    @property
    def due(self) -> int:
        """Updates so far asked for: one a step."""
        return self.steps

    def step(self) -> list[EpisodeEnd]:
        """Learn once."""
        self.steps += 1
        self.learn()
        return []

    def means(self) -> dict[str, float]:
        """Return the metrics as means over the updates since the last call; NaN without any."""
        means = (self.sums[:-1] / self.sums[-1]).tolist()
        self.sums.zero_()
        return dict(zip(self.learner.metric_names, means[:-1], strict=True))

    def _batch(self, window: Window) -> Batch:
        batch = super()._batch(replace(window, seen=self._blurred(window.seen)))
        shown = batch.demonstrated.bool()
        if bool(shown.all()):
            return batch
        model = self.learner.model
        with torch.no_grad():  # imitating itself leaves the policy as it is
            own = model.policy(model.encode(batch.seen.map(lambda x: x[0]))).mode
        token = torch.where(shown.unsqueeze(1), batch.planned_token, model.token(own, model.starts(batch.token[0])))
        return replace(batch, planned_token=token, demonstrated=torch.ones_like(batch.demonstrated))

    def _blurred(self, seen: Observation) -> Observation:
        """Add noise to the states with which windows begin: a policy meets states near those that were recorded."""
        noise, normaliser = self.learner.config.state_noise, self.learner.model.normaliser
        if not noise or STATE_KEY not in seen.values:
            return seen
        state = seen.values[STATE_KEY].clone()
        state[0] += noise / normaliser.scale.cpu() * torch.randn(state[0].shape, generator=self.generator)
        return seen.with_values({STATE_KEY: state})
