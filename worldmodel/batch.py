"""A batch of token windows in the form that the losses take."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.observation import Observation


@dataclass(frozen=True)
class Batch:
    """H tokens for B starts, in the form that the losses take.

    seen: output of `WorldModel.preprocess`, (H+1, B). token (H, B, P). reward (H, B): sum over each token,
    discounted within it. continues (H, B): 0 where the episode terminated within the token or before. valid (H, B): 0
    where the token never happened. planned_token (B, P): the planner's choice for the first token, which was then
    executed with noise; the executed token if the window does not begin at a plan.
    demonstrated (B,): 1 where an expert acted, who is imitated whatever the value of the tokens.
    """

    seen: Observation
    token: Float[Tensor, "H B P"]
    reward: Float[Tensor, "H B"]
    continues: Float[Tensor, "H B"]
    valid: Float[Tensor, "H B"]
    planned_token: Float[Tensor, "B P"]
    demonstrated: Float[Tensor, " B"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))
