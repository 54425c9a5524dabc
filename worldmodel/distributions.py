"""Distributions that heads predict: scalars as two-hot codes in symlog space, and tokens as squashed Gaussians.

Sources: Hafner et al. 2023, DreamerV3 (arXiv 2301.04104), eq. 8-10; Haarnoja et al. 2018 (arXiv 1812.05905).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BOUND = 10.0  # symlog(22025) = 10: larger magnitudes are clipped


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of symlog, sign(x) (exp(|x|) - 1)."""
    return torch.sign(x) * torch.expm1(x.abs())


def bins(count: int) -> Float[Tensor, " N"]:
    """Return the centres of `count` bins, evenly spaced in symlog space."""
    return torch.linspace(-BOUND, BOUND, count)


def twohot_mean(logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """Decode logits over bins to a scalar: symexp of the distribution's mean in symlog space."""
    return symexp((logits.softmax(-1) * bins(logits.shape[-1]).to(logits.device)).sum(-1))


def twohot_cross_entropy(logits: Float[Tensor, "*H B N"], target: Float[Tensor, " B"]) -> Float[Tensor, "*H B"]:
    """Compute the cross-entropy to the two-hot encoding of `target` (all mass on the two nearest bins)."""
    count = logits.shape[-1]
    width = 2 * BOUND / (count - 1)
    place = symlog(target).clamp(-BOUND, BOUND).unsqueeze(-1)
    weight = (1 - (bins(count).to(logits.device) - place).abs() / width).clamp(min=0)
    return -(weight * logits.log_softmax(-1)).sum(-1)


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
