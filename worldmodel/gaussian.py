"""The policy's distribution over a token: a diagonal Gaussian, squashed by tanh."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0


@dataclass(frozen=True)
class SquashedGaussian:
    """tanh(N(mean, exp(log_std)^2)) with independent entries; `mean`, `log_std`: (..., P), before the squash."""

    mean: Float[Tensor, "*B P"]
    log_std: Float[Tensor, "*B P"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*B M"]) -> "SquashedGaussian":
        """Split logits (..., 2 P) into the mean and a log standard deviation, bounded by LOG_STD_MIN and _MAX."""
        mean, raw = logits.chunk(2, -1)
        return cls(mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1))

    @property
    def mode(self) -> Float[Tensor, "*B P"]:
        """tanh(mean), (..., P): the median of each entry."""
        return torch.tanh(self.mean)

    def sample(self, noise: Float[Tensor, "*B P"]) -> tuple[Float[Tensor, "*B P"], Float[Tensor, "*B"]]:
        """Draw a reparametrised sample using standard normal `noise` (..., P); return it and its log-density (...,).

        The density includes the squash: log p(w) = log N(u) - sum log(1 - tanh(u)^2), in its stable form
        2 (log 2 - u - softplus(-2u)). Source: Haarnoja et al. 2018 (arXiv 1812.05905), appendix C.
        """
        u = self.mean + self.log_std.exp() * noise
        normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.tanh(u), (normal - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)
