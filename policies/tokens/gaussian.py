"""A token as a distribution: a low-rank Gaussian over the control points of its curve, in closed form.

With w = mean + U e, e standard normal, everything below is one update: a measurement C of w with noise of covariance N
leaves mean + K (value - C mean) and U T, K = Sigma C^T (C Sigma C^T + N)^-1, T T^T = I - V^T V, V = L^-1 C U,
L L^T = C Sigma C^T + N. A via-point is such a measurement, and so is another token's distribution (their normalized
product). Source: Paraschos et al. 2013 (ProMPs); square-root form after Bierman 1977.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from policies.tokens.curves import Curve
from worldmodel.layers import SquashedGaussian
from worldmodel.mppi import Plan, correction, weighted_mean_and_deviations

FLOOR = 0.02
"""Smallest standard deviation of a plan's token, on a range of 2, and smallest slope of tanh of a policy's."""


@dataclass(frozen=True)
class LowRankGaussian:
    """N(mean, U U^T) over the P entries of a token, U = `factor` of R columns; what U does not reach is exact."""

    mean: Float[Tensor, "*#B P"]
    factor: Float[Tensor, "*#B P R"]

    @classmethod
    def of_plan(cls, plan: Plan, at: int = 0) -> "LowRankGaussian":
        """Return token `at` of B plans, (B, P): the weighted mean and covariance of the plans' elites + FLOOR^2 I."""
        (mean,), (away,) = weighted_mean_and_deviations(plan.elites[at : at + 1].double(), plan.weights.double())
        covariance = away.mT @ away + FLOOR**2 * torch.eye(mean.shape[-1], dtype=mean.dtype)
        return cls(mean, torch.linalg.cholesky(covariance))

    @classmethod
    def of_policy(cls, policy: SquashedGaussian) -> "LowRankGaussian":
        """Return the policy's token (B, P), tanh being linearized at the mode: narrower near a bound, and beyond it."""
        mode = policy.mode.double()
        slope = (1 - mode.square()).clamp(min=FLOOR)
        return cls(mode, torch.diag_embed(slope * policy.log_std.double().exp()))

    @property
    def covariance(self) -> Float[Tensor, "*B P P"]:
        """The covariance U U^T."""
        return self.factor @ self.factor.mT

    def sample(self, noise: Float[Tensor, "*N R"]) -> Float[Tensor, "*N P"]:
        """Map standard normal `noise` (..., R) to tokens (..., P); the noise's shape ends in the token's own."""
        return self.mean + (self.factor @ noise.unsqueeze(-1)).squeeze(-1)

    def read(self, rows: Float[Tensor, "M P"]) -> tuple[Float[Tensor, "*B M"], Float[Tensor, "*B M"]]:
        """Return mean and standard deviation, each (..., M), of the linear readings rows @ w (`Curve.readings`)."""
        return self.mean @ rows.mT, (rows @ self.factor).norm(dim=-1)

    def tube(self, curve: Curve, times: np.ndarray) -> tuple[Float[Tensor, "*B T A"], Float[Tensor, "*B T A"]]:
        """Return mean and standard deviation of the curve's position at times (T,) in [0, 1]."""
        mean, deviation = self.read(curve.readings(times).to(self.mean.dtype))
        return mean.unflatten(-1, (-1, curve.action_size)), deviation.unflatten(-1, (-1, curve.action_size))

    def condition(
        self, rows: Float[Tensor, "M P"], value: Float[Tensor, "*C M"], deviation: float | Float[Tensor, " M"] = 0.0
    ) -> "LowRankGaussian":
        """Condition on rows @ w = `value` (..., M), known to `deviation`. Raises ValueError for what is fixed twice."""
        noise = torch.as_tensor(deviation, dtype=rows.dtype).expand(len(rows)).square()
        return self._update(rows, value, torch.diag(noise))

    def times(self, other: "LowRankGaussian") -> "LowRankGaussian":
        """Return the normalized product of both densities. Raises ValueError where both are exact in one direction."""
        return self._update(torch.eye(self.mean.shape[-1], dtype=self.mean.dtype), other.mean, other.covariance)

    def _update(self, rows: Tensor, value: Tensor, noise: Tensor) -> "LowRankGaussian":
        """Condition on rows @ w = `value` (..., M), measured with noise of covariance `noise` (..., M, M)."""
        seen = rows @ self.factor
        tiny = 100 * seen.shape[-1] * torch.finfo(seen.dtype).eps  # of all of the token's variance: rounding
        size = rows.square().sum(-1) * self.factor.square().sum((-2, -1)).unsqueeze(-1)
        root = _root(seen @ seen.mT + noise, tiny * (size + noise.diagonal(dim1=-2, dim2=-1)))
        if root is None:
            raise ValueError("the measurements fix what is fixed already, exactly; give them a deviation above 0")
        along, move = correction(root, seen, (value - self.mean @ rows.mT).unsqueeze(-1))
        mean = self.mean + (self.factor @ move).squeeze(-1)
        left, turn = torch.linalg.eigh(torch.eye(seen.shape[-1], dtype=seen.dtype) - along.mT @ along)
        # What rounding leaves of a direction that is known exactly is none.
        factor = self.factor @ (turn * torch.where(left > tiny, left, 0.0).sqrt().unsqueeze(-2))
        certain = factor.norm(dim=-2, keepdim=True) <= tiny * self.factor.norm(dim=(-2, -1), keepdim=True)
        return LowRankGaussian(mean, torch.where(certain, 0.0, factor))


def _root(covariance: Tensor, least: Tensor) -> Tensor | None:
    """Return the Cholesky root of covariances (..., M, M), or None if a pivot is not above `least` (..., M)."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    singular = bool(failed.any()) or bool((root.diagonal(dim1=-2, dim2=-1).square() <= least).any())
    return None if singular else root
