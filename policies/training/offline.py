"""Learning from recordings alone: nobody acts, and a step is an update."""

from dataclasses import replace

import torch

from policies.training.trainer import Row, Trainer
from worldmodel.losses import Batch
from worldmodel.replay import Window


class OfflineTrainer(Trainer):
    """A trainer whose replay holds all that there will ever be; its environment is never stepped.

    The policy only imitates, so the value that is learned is that of what was done: no action that nobody tried is ever
    chosen for its value. Steps that are not `demonstrated` (of episodes that failed) teach dynamics and value alone.
    """

    @property
    def due(self) -> int:
        """Updates so far asked for: one a step."""
        return self.steps

    def step(self) -> list[Row]:
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
        batch = super()._batch(window)
        shown = batch.demonstrated.bool()
        if bool(shown.all()):
            return batch
        model = self.learner.model
        with torch.no_grad():  # imitating itself leaves the policy as it is
            own = model.policy(model.encode(batch.seen.map(lambda x: x[0]))).mode
        token = torch.where(shown.unsqueeze(1), batch.planned_token, model.token(own, model.starts(batch.token[0])))
        return replace(batch, planned_token=token, demonstrated=torch.ones_like(batch.demonstrated))
