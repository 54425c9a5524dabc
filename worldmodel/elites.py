"""The elites of a search: the candidates with the highest returns, the distribution fitted to them, convergence."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.settings import PlannerConfig


class Elites(NamedTuple):
    """The elites of B searches, and the distribution fitted to them.

    plans (T, B, E, P), returns and weights (B, E): of each elite. mean and spread (T, B, P): weighted mean and
    standard deviation of the plans. relative_spread (B,): of the returns; small where the search has converged.
    """

    mean: Float[Tensor, "T B P"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    plans: Float[Tensor, "T B E P"]
    relative_spread: Float[Tensor, " B"]

    def where(self, chosen: Bool[Tensor, " B"], other: "Elites") -> "Elites":
        """Take these elites for the latents (B,) chosen and `other` for the rest."""
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
    """Select the elites among candidates with known returns, and fit a weighted mean and spread to them.

    A candidate with a non-finite return is ranked last and has no influence, even if its own entries are not finite;
    the same holds for the padding added if there are too few candidates. Weights: exp(return / unit), as in MPPI
    (Williams et al. 2017, arXiv 1707.02342), over elites as in TD-MPC2; `unit` follows the standard deviation of the
    elites' returns.
    """
    returns = torch.where(torch.isfinite(returns), returns, -torch.inf)
    if (missing := config.elites - returns.shape[1]) > 0:
        returns = F.pad(returns, (0, missing), value=-torch.inf)
        candidates = torch.cat([candidates, candidates[:, :, :1].expand(-1, -1, missing, -1)], 2)
    best, index = returns.topk(config.elites, -1)
    index = index[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1])
    elites = candidates.gather(2, index)
    # Replace these plans: a weight of 0 does not suffice, since 0 * nan is nan.
    elites = torch.where(torch.isfinite(best)[None, :, :, None], elites, elites[:, :, :1])
    unit = config.temperature * (_deviation(best).square() + config.indifference**2).sqrt()
    weights = torch.softmax((best - best[:, :1]) / unit, -1)
    mean, ways = common(elites, weights)
    spread = ways.square().sum(2).sqrt().clamp(config.min_spread, config.spread)
    return Elites(mean, spread, best, weights, elites, relative_spread(best, config.indifference))


def common(
    elites: Float[Tensor, "T B E P"], weights: Float[Tensor, "B E"]
) -> tuple[Float[Tensor, "T B P"], Float[Tensor, "T B E P"]]:
    """Return the elites' weighted mean and their deviations U from it.

    Each deviation is scaled by the square root of its weight, so that U^T U is the weighted covariance.
    """
    mean = torch.einsum("be,tbep->tbp", weights, elites)
    return mean, weights.sqrt()[None, :, :, None] * (elites - mean.unsqueeze(2))


def relative_spread(returns: Float[Tensor, "B E"], indifference: float) -> Float[Tensor, " B"]:
    """Return the standard deviation of the elites' returns relative to the largest absolute return + `indifference`.

    Non-finite returns are left out; where none is finite, the relative spread is infinite.
    """
    finite = torch.isfinite(returns)
    size = torch.where(finite, returns, 0.0).abs().amax(-1)
    return torch.where(finite.any(-1), _deviation(returns)[..., 0] / (size + indifference), torch.inf)


def _deviation(returns: Float[Tensor, "B E"]) -> Float[Tensor, "B 1"]:
    """Return the standard deviation of the finite returns; 0 where none is finite."""
    finite = torch.isfinite(returns)
    known = torch.where(finite, returns, 0.0)
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    middle = known.sum(-1, keepdim=True) / count
    return (torch.where(finite, known - middle, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
