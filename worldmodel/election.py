"""Among candidates of known returns: who is elected, what they say together, and how far they disagree."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.settings import PlannerConfig


class Election(NamedTuple):
    """The elites (T, B, E, W), of `returns` and `weights` (B, E), and what they say together.

    mean (T, B, W) and spread (T, B, P): over the elites of the kind that has the most weight. doubt (B,): how far the
    elites' returns disagree.
    """

    mean: Float[Tensor, "T B W"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    elites: Float[Tensor, "T B E W"]
    doubt: Float[Tensor, " B"]

    def where(self, chosen: Bool[Tensor, " B"], other: "Election") -> "Election":
        """This election for the latents (B,) chosen, the other one for the rest."""
        by_elite, by_token = chosen[:, None], chosen[None, :, None]
        return Election(
            torch.where(by_token, self.mean, other.mean),
            torch.where(by_token, self.spread, other.spread),
            torch.where(by_elite, self.returns, other.returns),
            torch.where(by_elite, self.weights, other.weights),
            torch.where(by_token.unsqueeze(-1), self.elites, other.elites),
            torch.where(chosen, self.doubt, other.doubt),
        )


def elect(
    candidates: Float[Tensor, "T B N W"], returns: Float[Tensor, "B N"], points: int, config: PlannerConfig
) -> Election:
    """The elites among candidates of known returns, and what they say together.

    The first P = `points` numbers of a token are its points, the others the code of its kind. A candidate whose return
    is not finite is ranked last, with weight 0, and so are those that stand in where there are too few. Weights:
    exp(return / unit), as in MPPI (Williams et al. 2017, arXiv 1707.02342), over elites as in TD-MPC2; `unit` follows
    the elites' own deviation.
    """
    returns = torch.where(torch.isfinite(returns), returns, -torch.inf)
    if (missing := config.elites - returns.shape[1]) > 0:
        returns = F.pad(returns, (0, missing), value=-torch.inf)
        candidates = torch.cat([candidates, candidates[:, :, :1].expand(-1, -1, missing, -1)], 2)
    best, index = returns.topk(config.elites, -1)
    index = index[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1])
    elites = candidates.gather(2, index)
    unit = config.temperature * (_deviation(best).square() + config.indifference**2).sqrt()
    weights = torch.softmax((best - best[:, :1]) / unit, -1)
    middle, ways, kind = common(elites, weights, points)
    mean = torch.cat([middle, kind.expand(len(middle), -1, -1)], -1)
    spread = ways.square().sum(2).sqrt().clamp(config.min_spread, config.spread)
    return Election(mean, spread, best, weights, elites, doubt(best, config.indifference))


def common(
    elites: Float[Tensor, "T B E W"], weights: Float[Tensor, "B E"], points: int
) -> tuple[Float[Tensor, "T B P"], Float[Tensor, "T B E P"], Float[Tensor, "B K"]]:
    """What elites of the kind that has the most weight have in common: the mean of their points, and U; and that kind.

    U: the elites' ways off that mean, each by the square root of its weight, so that U^T U is their covariance.
    """
    share, kind = _alike(weights, elites[0, :, :, points:])
    mean = torch.einsum("be,tbep->tbp", share, elites[..., :points])
    return mean, share.sqrt()[None, :, :, None] * (elites[..., :points] - mean.unsqueeze(2)), kind


def _alike(
    weights: Float[Tensor, "B E"], kinds: Float[Tensor, "B E K"]
) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B K"]]:
    """Of the kind that has the most weight in all: its elites' weights, which sum to 1, the others' 0; and its code."""
    if not kinds.shape[-1]:
        return weights, kinds[:, 0]
    winner = torch.einsum("be,bek->bk", weights, kinds).argmax(-1)
    code = F.one_hot(winner, kinds.shape[-1]).to(kinds.dtype)
    share = weights * torch.einsum("bek,bk->be", kinds, code)
    return share / share.sum(-1, keepdim=True), code


def doubt(returns: Float[Tensor, "B E"], indifference: float) -> Float[Tensor, " B"]:
    """How far the elites disagree: the deviation of their returns, relative to the best one's size.

    Candidates whose return is not finite are left out; with none that is, the doubt is infinite.
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
