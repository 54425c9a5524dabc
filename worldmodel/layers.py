"""Layers, and the distributions that heads predict: scalars as two-hot codes in symlog space, squashed Gaussians.

Cheap on a CPU: matrix products in bf16 if requested, everything else in fp32. Sources of the distributions: Hafner et
al. 2023, DreamerV3 (arXiv 2301.04104), eq. 8-10; Haarnoja et al. 2018 (arXiv 1812.05905).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def simnorm(x: Float[Tensor, "*B D"], group: int) -> Float[Tensor, "*B D"]:
    """Softmax within groups of `group` entries, so that each group is a point on a simplex (a soft symbol).

    The group axis is strided (a group's entries lie D/group apart): on a CPU over 20 times faster than a softmax over a
    short trailing axis. Source: simplicial embeddings, Lavoie et al. 2022 (arXiv 2204.00616).
    """
    return x.unflatten(-1, (group, -1)).softmax(-2).flatten(-2)


class Linear(nn.Module):
    """y = W x + b, for one net or, with `heads`, for an ensemble of nets with stacked weights.

    Input (..., inputs); with heads, (heads, B, inputs), or (B, inputs) shared by all heads.
    Output (..., outputs), or with heads (heads, B, outputs); always fp32. `zero` initialises the weights to 0.
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 0, dtype: torch.dtype = torch.float32, zero=False):
        super().__init__()
        lead = (heads,) if heads else ()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.zeros(*lead, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(*lead, outputs))
        if not zero:
            nn.init.trunc_normal_(self.weight, std=1 / math.sqrt(inputs), a=-2, b=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x to fp32 outputs."""
        weight = self.weight.to(self.dtype)
        if weight.dim() == 2:
            return F.linear(x.to(self.dtype), weight).float() + self.bias
        x = x.to(self.dtype)
        if x.dim() == 2:
            x = x.expand(weight.shape[0], *x.shape)
        return torch.bmm(x, weight.transpose(1, 2)).float() + self.bias.unsqueeze(1)


class NormedLinear(Linear):
    """activation(LayerNorm(W x + b)): SiLU, or SimNorm when `group` is given."""

    def __init__(self, inputs: int, outputs: int, heads: int = 0, dtype: torch.dtype = torch.float32, group: int = 0):
        super().__init__(inputs, outputs, heads, dtype)
        self.group = group
        lead = (heads, 1) if heads else ()
        self.gain = nn.Parameter(torch.ones(*lead, outputs))
        self.shift = nn.Parameter(torch.zeros(*lead, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map x to fp32 activations."""
        y = super().forward(x)
        y = F.layer_norm(y, y.shape[-1:]) * self.gain + self.shift
        return simnorm(y, self.group) if self.group else F.silu(y)


def mlp(inputs: int, width: int, outputs: int, heads: int, dtype: torch.dtype, zero: bool = False) -> nn.Sequential:
    """Build two normed layers and a linear one; `zero` initialises the last layer to 0."""
    return nn.Sequential(
        NormedLinear(inputs, width, heads, dtype),
        NormedLinear(width, width, heads, dtype),
        Linear(width, outputs, heads, dtype, zero),
    )


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
