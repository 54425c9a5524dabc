"""Online mean and variance of the state, so that every sensor reaches the encoder at a similar scale."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normaliser(nn.Module):
    """(x - mean) / sqrt(variance + floor^2), clipped to +-10.

    Statistics are exact over all states observed (Chan et al. 1979, pairwise update), in double precision.
    The floor avoids amplifying the noise of a sensor that hardly moves.
    """

    FLOOR = 1e-2
    CLIP = 10.0
    count: Tensor
    total_mean: Tensor
    total_square: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("total_square", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def observe(self, x: Float[Tensor, "B S"]) -> None:
        """Add B states to the statistics."""
        x = x.to(self.total_mean)
        n, total = x.shape[0], self.count + x.shape[0]
        delta = x.mean(0) - self.total_mean
        self.total_square += (x - x.mean(0)).square().sum(0) + delta.square() * self.count * n / total
        self.total_mean += delta * n / total
        self.count.copy_(total)
        self._settle()

    @torch.no_grad()
    def take(self, mean: Float[Tensor, " S"], std: Float[Tensor, " S"], count: int) -> None:
        """Replace the statistics with those of `count` states from elsewhere."""
        self.count.fill_(count)
        self.total_mean.copy_(mean)
        self.total_square.copy_(std.double().square() * count)
        self._settle()

    def _settle(self) -> None:
        self.mean.copy_(self.total_mean)
        self.scale.copy_((self.total_square / self.count + self.FLOOR**2).rsqrt())

    def forward(self, x: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """Normalise and clip a batch of states."""
        return ((x - self.mean) * self.scale).clamp(-self.CLIP, self.CLIP)
