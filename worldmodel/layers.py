"""Layers that are cheap on a CPU: matrix products in bf16 if requested, everything else in fp32."""

import math

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
