"""The elites of a search: the candidates of highest return, the distribution fitted to them, and its convergence."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.settings import PlannerConfig


class Elites(NamedTuple):
    """The elites of B searches, and the distribution fitted to them.

    plans (T, B, E, P), returns and weights (B, E): of each elite. mean and spread (T, B, P): weighted mean and
    standard deviation. relative_spread (B,): of the returns, small where the search has converged.
    """

    mean: Float[Tensor, "T B P"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    plans: Float[Tensor, "T B E P"]
    relative_spread: Float[Tensor, " B"]

    def where(self, chosen: Bool[Tensor, " B"], other: "Elites") -> "Elites":
        """These elites for the latents (B,) chosen, the other ones for the rest."""
        by_elite, by_token = chosen[:, None], chosen[None, :, None]
        return Elites(
            torch.where(by_token, self.mean, other.mean),
            torch.where(by_token, self.spread, other.spread),
            torch.where(by_elite, self.returns, other.returns),
            torch.where(by_elite, self.weights, other.weights),
            torch.where(by_token.unsqueeze(-1), self.plans, other.plans),
            torch.where(chosen, self.relative_spread, other.relative_spread),
        )


def fit_elites(candidates: Float[Tensor, "T B N P"], returns: Float[Tensor, "B N"], config: PlannerConfig) -> Elites:
    """Select the elites among candidates of known returns, and fit a weighted mean and spread to them.

    A candidate whose return is not finite is ranked last and counts for nothing, whatever its own numbers are; so do
    those that stand in where there are too few. Weights: exp(return / unit), as in MPPI (Williams et al. 2017, arXiv
    1707.02342), over elites as in TD-MPC2; `unit` follows the elites' own deviation.
    """
    returns = torch.where(torch.isfinite(returns), returns, -torch.inf)
    if (missing := config.elites - returns.shape[1]) > 0:
        returns = F.pad(returns, (0, missing), value=-torch.inf)
        candidates = torch.cat([candidates, candidates[:, :, :1].expand(-1, -1, missing, -1)], 2)
    best, index = returns.topk(config.elites, -1)
    index = index[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1])
    elites = candidates.gather(2, index)
    # A weight of 0 would not do: 0 * nan is nan.
    elites = torch.where(torch.isfinite(best)[None, :, :, None], elites, elites[:, :, :1])
    unit = config.temperature * (_deviation(best).square() + config.indifference**2).sqrt()
    weights = torch.softmax((best - best[:, :1]) / unit, -1)
    mean, ways = common(elites, weights)
    spread = ways.square().sum(2).sqrt().clamp(config.min_spread, config.spread)
    return Elites(mean, spread, best, weights, elites, relative_spread(best, config.indifference))


def common(
    elites: Float[Tensor, "T B E P"], weights: Float[Tensor, "B E"]
) -> tuple[Float[Tensor, "T B P"], Float[Tensor, "T B E P"]]:
    """What elites have in common: their mean, and their ways U off it, each by the square root of its weight, so that
    U^T U is their covariance.
    """
    mean = torch.einsum("be,tbep->tbp", weights, elites)
    return mean, weights.sqrt()[None, :, :, None] * (elites - mean.unsqueeze(2))


def relative_spread(returns: Float[Tensor, "B E"], indifference: float) -> Float[Tensor, " B"]:
    """The standard deviation of the elites' returns, relative to the largest absolute return.

    Candidates whose return is not finite are left out; where none is finite, the relative spread is infinite.
    """
    finite = torch.isfinite(returns)
    size = torch.where(finite, returns, 0.0).abs().amax(-1)
    return torch.where(finite.any(-1), _deviation(returns)[..., 0] / (size + indifference), torch.inf)


def _deviation(returns: Float[Tensor, "B E"]) -> Float[Tensor, "B 1"]:
    """Standard deviation of those that are finite; 0 where none is."""
    finite = torch.isfinite(returns)
    known = torch.where(finite, returns, 0.0)
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    middle = known.sum(-1, keepdim=True) / count
    return (torch.where(finite, known - middle, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
