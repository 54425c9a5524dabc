"""An agent's intention as a distribution over the points of a token, to be read, conditioned and composed."""

import torch

from policies.distributions.manifold import Manifold
from worldmodel.gaussian import SquashedGaussian
from worldmodel.mppi import Plan, weighted_mean_and_deviations

FLOOR = 0.02  # smallest standard deviation assumed, on a range of 2; also the smallest slope of tanh


def planned(plan: Plan, at: int = 0) -> Manifold:
    """Return token `at` of B plans, (B, P), as N(mean, U^T U + FLOOR^2 I), with the weighted mean of the plans' elites.

    U^T U is the elites' weighted covariance; U (B, E, P) has one row for each elite.
    """
    mean, ways = weighted_mean_and_deviations(plan.elites[at : at + 1].double(), plan.weights.double())
    return Manifold.of(mean[0], ways[0].mT, torch.full_like(mean[0], FLOOR**2))


def proposed(policy: SquashedGaussian) -> Manifold:
    """Return the policy's token (B, P) as a Gaussian, with tanh linearized at the mode.

    Near a bound it is narrower than the policy, and it does not respect the bound.
    """
    mean, slope = policy.mode.double(), (1 - policy.mode.double().square()).clamp(min=FLOOR)
    return Manifold.of(mean, mean.new_empty(*mean.shape, 0), (slope * policy.log_std.double().exp()).square())
