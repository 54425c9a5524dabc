"""What an agent means to do, as a distribution over the points of a token: to read, to condition, to compose."""

import torch

from policies.distributions.manifold import Manifold
from worldmodel.elites import common
from worldmodel.gaussian import SquashedGaussian
from worldmodel.planner import Plan

FLOOR = 0.02  # the deviation, of a range of 2, below which nothing is held to be known


def planned(plan: Plan, at: int = 0) -> Manifold:
    """Token number `at` of B plans, (B, P): N(mean, U^T U + FLOOR^2), mean and covariance those of the plan's elites.

    U (B, E, P) has one row for each elite.
    """
    mean, ways = common(plan.elites[at : at + 1].double(), plan.weights.double())
    return Manifold.of(mean[0], ways[0].mT, torch.full_like(mean[0], FLOOR**2))


def proposed(policy: SquashedGaussian) -> Manifold:
    """The policy's token (B, P), to first order around its mode: what tanh makes of small deviations.

    Of the policy's rank; near a bound it is narrower than the policy is, and it does not know of the bound.
    """
    mean, slope = policy.mode.double(), (1 - policy.mode.double().square()).clamp(min=FLOOR)
    factor = slope.unsqueeze(-1) * policy.factor.double()
    return Manifold.of(mean, factor, (slope * policy.log_std.double().exp()).square())
