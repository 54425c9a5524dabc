"""The policy's distribution over a token: a Gaussian squashed into (-1, 1) by tanh."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0


@dataclass(frozen=True)
class SquashedGaussian:
    """tanh(N(mean, std^2)), entries independent. `mean`, `log_std`: (..., P), before the squash."""

    mean: Float[Tensor, "*B P"]
    log_std: Float[Tensor, "*B P"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*B P2"]) -> "SquashedGaussian":
        """Split (..., 2P) into mean and a bounded log standard deviation."""
        mean, raw = logits.chunk(2, -1)
        return cls(mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1))

    @property
    def mode(self) -> Float[Tensor, "*B P"]:
        """tanh(mean), (..., P)."""
        return torch.tanh(self.mean)

    def sample(self, noise: Float[Tensor, "*B P"]) -> tuple[Float[Tensor, "*B P"], Float[Tensor, "*B"]]:
        """Reparametrised sample from standard normal `noise` (..., P), and its log-density (...,).

        The density includes the squash: log p(w) = log N(u) - sum log(1 - tanh(u)^2), in its stable form
        2 (log 2 - u - softplus(-2u)). Source: Haarnoja et al. 2018 (arXiv 1812.05905), appendix C.
        """
        u = self.mean + noise * self.log_std.exp()
        normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.tanh(u), (normal - self._log_slope(u)).sum(-1)

    def log_density(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        """Log-density (...,) of tokens w (..., P) inside [-1, 1]; the edges are moved in by 1e-3."""
        u = torch.atanh(w.clamp(-0.999, 0.999))
        normal = -0.5 * ((u - self.mean) / self.log_std.exp()).square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return (normal - self._log_slope(u)).sum(-1)

    @staticmethod
    def _log_slope(u: Tensor) -> Tensor:
        return 2 * (math.log(2) - u - F.softplus(-2 * u))
