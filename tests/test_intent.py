"""Laws of what an agent means: it has the moments of the plan's elites and of the policy, and can be told more."""

import pytest
import torch

from policies.distributions.intent import FLOOR, planned, proposed
from policies.distributions.tube import Strand
from worldmodel.gaussian import SquashedGaussian
from worldmodel.planner import Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

CONFIG = PlannerConfig(samples=32, policy_samples=4, elites=8, iterations=2, horizon=2)
STRAND = Strand(3, 2, 2)


@pytest.fixture
def plan(toys, generator):
    """Makes plans of two tokens for three latents: three points in two dimensions, of joint."""

    def make():
        model = toys.tiny_model(3, 6, token=toys.token_settings(4))
        observation = {STATE_KEY: torch.randn(3, 3, generator=generator)}
        return Planner(model, 0.9, CONFIG).plan(observation, None, generator)

    return make


def moments(plan, at):
    """Mean (B, 6) and covariance (B, 6, 6) of a plan's elites, one latent after the other."""
    means, covariances = [], []
    for b in range(len(plan.returns)):
        weight, w = plan.weights[b].double(), plan.elites[at, b].double()
        means.append(weight @ w)
        covariances.append((w - means[-1]).mT @ torch.diag(weight) @ (w - means[-1]))
    return torch.stack(means), torch.stack(covariances)


@pytest.mark.parametrize("at", [0, 1])
def test_a_plan_is_the_gaussian_of_its_elites(plan, at):
    made = plan()
    mean, covariance = moments(made, at)
    token = planned(made, at)
    assert covariance.abs().max() > 10 * FLOOR**2
    torch.testing.assert_close(token.mean, mean)
    torch.testing.assert_close(token.covariance, covariance + FLOOR**2 * torch.eye(6))
    torch.testing.assert_close(token.mean, made.tokens[at].double(), atol=1e-5, rtol=0)


def test_a_plan_that_is_told_where_to_end_ends_there_and_keeps_its_other_ways(plan):
    token, goal = planned(plan()), torch.tensor([0.3, -0.2], dtype=torch.float64)
    end = STRAND.rows(1.0)
    told = token.condition(end, goal)
    torch.testing.assert_close(told.read(end)[0], goal.expand(3, 2))
    assert float(told.read(end)[1].max()) < 1e-6
    assert (told.read(STRAND.rows(0.0))[1] > 0).all()
    assert STRAND.move(told[0], 0.5).points.shape == (3, 2)


def test_two_intents_in_one_token_lie_between_them(plan):
    one = planned(plan())
    other = proposed(SquashedGaussian(torch.full((3, 6), 0.4), torch.full((3, 6), -2.0)))
    both = one.times(other)
    torch.testing.assert_close(both.mean, other.times(one).mean)
    assert (both.entropy < one.entropy).all() and (both.entropy < other.entropy).all()


def test_a_narrow_policy_is_its_manifold(generator):
    mean = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    policy = SquashedGaussian(0.3 * mean, torch.full_like(mean, -3.5))
    token = proposed(policy)
    w, _ = policy.sample(torch.randn(100_000, 2, 6, generator=generator, dtype=torch.float64))
    for b in range(2):
        found, scale = torch.cov(w[:, b].mT), token.covariance[b].diagonal().sqrt()
        assert ((found - token.covariance[b]).abs() < 0.05 * scale.outer(scale)).all()


def test_a_saturated_policy_is_still_a_gaussian():
    token = proposed(SquashedGaussian(torch.full((1, 4), 40.0), torch.full((1, 4), -3.0)))
    assert torch.isfinite(token.entropy).all()
