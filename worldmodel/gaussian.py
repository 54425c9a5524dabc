"""The policy's distribution over a token: a tanh-squashed Gaussian, diagonal or with a low-rank term added."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0
REACH = 2.0  # maximum length of an axis, where the standard deviation along it is multiplied by 1 + REACH^2


@dataclass(frozen=True)
class SquashedGaussian:
    """tanh(N(mean, S (I + V V^T)^2 S)), S = exp(log_std) on the diagonal; without axes, entries are independent.

    `mean`, `log_std`: (..., P), before the squash. `axes` V: (..., P, R), directions in which entries vary together.
    The covariance is S^2 + (S V) (2 I + V^T V) (S V)^T: a diagonal plus a term of rank R. Its root S (I + V V^T) maps
    P noise values to a sample whatever the rank, so nothing else depends on the rank, and costs 2 P R products.
    """

    mean: Float[Tensor, "*B P"]
    log_std: Float[Tensor, "*B P"]
    axes: Float[Tensor, "*B P R"] | None = None

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*B M"], rank: int = 0) -> "SquashedGaussian":
        """Split logits (..., (2 + rank) P) into mean, bounded log standard deviation, and axes no longer than REACH."""
        size = logits.shape[-1] // (2 + rank)
        mean, raw, axes = logits.split([size, size, rank * size], -1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1)
        if not rank:
            return cls(mean, log_std)
        return cls(mean, log_std, REACH / size**0.5 * torch.tanh(axes.unflatten(-1, (size, rank))))

    @property
    def mode(self) -> Float[Tensor, "*B P"]:
        """tanh(mean), (..., P): the median of each entry."""
        return torch.tanh(self.mean)

    @property
    def factor(self) -> Float[Tensor, "*B P R"]:
        """The factor U in the covariance U U^T + S^2 before the squash; it has no columns if there are no axes."""
        if self.axes is None:
            return self.mean.new_empty(*self.mean.shape, 0)
        inner = _core(self.axes) + torch.eye(self.axes.shape[-1], dtype=self.axes.dtype, device=self.axes.device)
        return self.log_std.exp().unsqueeze(-1) * (self.axes @ torch.linalg.cholesky(inner))

    def sample(self, noise: Float[Tensor, "*B P"]) -> tuple[Float[Tensor, "*B P"], Float[Tensor, "*B"]]:
        """Draw a reparametrised sample using standard normal `noise` (..., P); return it and its log-density (...,).

        The density includes the squash: log p(w) = log N(u) - sum log(1 - tanh(u)^2), in its stable form
        2 (log 2 - u - softplus(-2u)). Source: Haarnoja et al. 2018 (arXiv 1812.05905), appendix C.
        """
        u = self.mean + self.log_std.exp() * self._along(noise)
        return torch.tanh(u), self._log_density(noise, u)

    def log_density(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        """Compute the log-density (...,) of tokens w (..., P) in [-1, 1], clamped to +-0.999."""
        u = torch.atanh(w.clamp(-0.999, 0.999))
        away = (u - self.mean) / self.log_std.exp()
        if self.axes is not None:  # (I + V V^T)^-1 = I - V (I + V^T V)^-1 V^T
            away = away - torch.einsum(
                "...pr,...r->...p", self.axes, torch.linalg.solve(_core(self.axes), self._seen(away))
            )
        return self._log_density(away, u)

    def _along(self, noise: Tensor) -> Tensor:
        """Return (I + V V^T) noise."""
        if self.axes is None:
            return noise
        return noise + torch.einsum("...pr,...r->...p", self.axes, self._seen(noise))

    def _seen(self, x: Tensor) -> Tensor:
        return torch.einsum("...pr,...p->...r", self.axes, x)

    def _log_density(self, noise: Tensor, u: Tensor) -> Tensor:
        """Compute the log-density of tanh(u), where `noise` is the standard normal draw that produced u."""
        normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        total = (normal - self._log_slope(u)).sum(-1)
        return total if self.axes is None else total - torch.linalg.slogdet(_core(self.axes))[1]

    @staticmethod
    def _log_slope(u: Tensor) -> Tensor:
        return 2 * (math.log(2) - u - F.softplus(-2 * u))


def _core(axes: Tensor) -> Tensor:
    """Return I + V^T V."""
    return axes.mT @ axes + torch.eye(axes.shape[-1], dtype=axes.dtype, device=axes.device)
