"""Scalars as distributions over bins: two-hot targets in symlog space.

Source: Hafner et al. 2023, DreamerV3 (arXiv 2301.04104), eq. 8-10.
"""

import torch
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


def mean(logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """Decode logits over bins to a scalar: symexp of the distribution's mean in symlog space."""
    return symexp((logits.softmax(-1) * bins(logits.shape[-1]).to(logits.device)).sum(-1))


def cross_entropy(logits: Float[Tensor, "*H B N"], target: Float[Tensor, " B"]) -> Float[Tensor, "*H B"]:
    """Compute the cross-entropy to the two-hot encoding of `target` (all mass on the two nearest bins)."""
    count = logits.shape[-1]
    width = 2 * BOUND / (count - 1)
    place = symlog(target).clamp(-BOUND, BOUND).unsqueeze(-1)
    weight = (1 - (bins(count).to(logits.device) - place).abs() / width).clamp(min=0)
    return -(weight * logits.log_softmax(-1)).sum(-1)
