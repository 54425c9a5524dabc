"""Laws of the token as a Gaussian: torch's own, Bayes' rule, products, limits, tubes; of a plan and of a policy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from policies.tokens.curves import Curve
from policies.tokens.gaussian import FLOOR, LowRankGaussian
from worldmodel.layers import SquashedGaussian
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

CURVE = Curve.of(8, 5, 3, 2)
SIZE = CURVE.size
TIMES = np.linspace(0, 1, 9)
MIDDLE, END = CURVE.readings(0.5), CURVE.readings(1.0)
BEGINNING = torch.cat([CURVE.readings(0.0), CURVE.readings(0.0, 1)])

seeds = st.integers(0, 999)
batches = st.sampled_from([(), (3,), (2, 3)])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def token(seed=0, batch=(), rank=3):
    """Some directions in which the points vary together, and a little of each point by itself."""
    alone = 0.1 * torch.eye(SIZE).double().expand(*batch, SIZE, SIZE)
    return LowRankGaussian(normal(*batch, SIZE, seed=seed), torch.cat([0.4 * normal(*batch, SIZE, rank), alone], -1))


def close(one, other, atol=1e-7):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def same(one, other, atol=1e-7):
    close(one.mean, other.mean, atol)
    close(one.covariance, other.covariance, atol)


@given(seeds, st.booleans())
@settings(max_examples=10)
def test_samples_have_its_moments(seed, conditioned):
    m = token(seed)
    if conditioned:
        m = m.condition(END, normal(2, seed=seed), 0.05)
    count = 40000
    w = m.sample(normal(count, m.factor.shape[-1], seed=seed + 5))
    deviation = m.covariance.diagonal().sqrt()
    assert ((w.mean(0) - m.mean).abs() < 5 * deviation / count**0.5).all()
    error = 2 * deviation[:, None] * deviation / count**0.5
    assert ((torch.cov(w.mT) - m.covariance).abs() < 5 * error).all()


@given(seeds, batches)
def test_conditioning_exactly_reproduces_the_via_point(seed, batch):
    """Position and rate at the beginning, a via-point and the end: in the mean and in every sample."""
    m = token(seed, batch)
    for rows in (BEGINNING, MIDDLE, END):
        value = normal(len(rows), seed=seed + len(rows))
        pinned = m.condition(rows, value)
        close(pinned.mean @ rows.mT, value.expand(*batch, -1))
        noise = normal(7, *batch, pinned.factor.shape[-1])
        close(pinned.sample(noise) @ rows.mT, value.expand(7, *batch, -1))
        assert float(pinned.read(rows)[1].abs().max()) < 1e-6
        assert float(pinned.read(MIDDLE if rows is END else END)[1].min()) > 0.01  # the rest of it stays free


@given(seeds, batches, st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
def test_conditioning_is_bayes_rule(seed, batch, deviation):
    """The textbook's posterior, with whole matrices; and for a measurement that says nothing, no change."""
    m, value = token(seed, batch), normal(*batch, 2, seed=seed)
    pinned = m.condition(MIDDLE, value, deviation)
    cross = m.covariance @ MIDDLE.mT
    gain = cross @ torch.linalg.inv(MIDDLE @ cross + deviation**2 * torch.eye(2, dtype=torch.double))
    close(pinned.mean, m.mean + (gain @ (value - m.mean @ MIDDLE.mT)[..., None])[..., 0])
    close(pinned.covariance, m.covariance - gain @ cross.mT)
    assert (pinned.tube(CURVE, TIMES)[1] <= m.tube(CURVE, TIMES)[1] + 1e-6).all()  # nowhere wider
    close(m.tube(CURVE, np.array([0.5]))[1][..., 0, :], (MIDDLE @ cross).diagonal(dim1=-2, dim2=-1).sqrt())
    same(m.condition(MIDDLE, value, 1e9), m)


@given(seeds, batches)
def test_the_product_is_symmetric_and_that_of_the_densities(seed, batch):
    one, other = token(seed, batch), token(seed + 10, batch, 5)
    product = one.times(other)
    same(product, other.times(one))
    first, second, both = (MultivariateNormal(each.mean, each.covariance) for each in (one, other, product))
    assert (both.entropy() < torch.minimum(first.entropy(), second.entropy())).all()
    w = normal(2, *batch, SIZE, seed=seed)  # densities multiply, up to a constant
    gap = first.log_prob(w) + second.log_prob(w) - both.log_prob(w)
    torch.testing.assert_close(gap[0], gap[1], rtol=1e-7, atol=1e-6)


@given(seeds)
def test_a_product_with_a_token_that_knows_the_end_ends_there(seed):
    """The order of multiplying and conditioning does not matter, exact knowledge included."""
    one, other, value = token(seed), token(seed + 10), normal(2, seed=seed)
    same(one.condition(END, value).times(other), one.times(other).condition(END, value), 1e-6)


def test_what_is_known_exactly_is_refused_where_it_cannot_be_used():
    m, value = token(), torch.zeros(2, dtype=torch.double)
    pinned = m.condition(END, value)
    whole = m.condition(torch.eye(SIZE).double(), m.mean)
    for act in (
        lambda: pinned.condition(END, value),
        lambda: m.condition(torch.cat([END, END]), torch.cat([value, value])),
        lambda: pinned.times(pinned),
        lambda: whole.condition(MIDDLE, value),
    ):
        with pytest.raises(ValueError, match="fix what is fixed already"):
            act()
    same(pinned.condition(END, value, 0.1), pinned)  # with a deviation it says nothing new


@pytest.mark.parametrize("at", [0, 1])
def test_a_plan_is_the_gaussian_of_its_elites(toys, generator, at):
    model = toys.tiny_model(3, 6, token=toys.token_settings(4))
    config = PlannerConfig(samples=32, policy_samples=4, elites=8, iterations=2, horizon=2)
    seen = Observation.of(model.senses, {STATE_KEY: torch.randn(3, 3, generator=generator)})
    plan = Planner(model, 0.9, config).plan(seen, None, generator)
    found = LowRankGaussian.of_plan(plan, at)
    close(found.mean, plan.tokens[at].double(), 1e-5)
    for b in range(3):
        weight, w = plan.weights[b].double(), plan.elites[at, b].double()
        away = w - weight @ w
        close(found.covariance[b], away.mT @ torch.diag(weight) @ away + FLOOR**2 * torch.eye(6).double())
    assert found.covariance.abs().max() > 10 * FLOOR**2


def test_a_narrow_policy_is_its_gaussian_and_a_saturated_one_is_never_certain(generator):
    policy = SquashedGaussian(0.5 * torch.randn(2, 6, generator=generator), torch.full((2, 6), -3.5))
    found = LowRankGaussian.of_policy(policy)
    w, _ = policy.sample(torch.randn(20_000, 2, 6, generator=generator))
    scale = found.covariance[0].diagonal().sqrt()
    assert ((torch.cov(w[:, 0].mT) - found.covariance[0]).abs() < 0.05 * scale.outer(scale)).all()
    saturated = SquashedGaussian(torch.full((1, 4), 40.0), torch.full((1, 4), -3.0))
    assert bool((LowRankGaussian.of_policy(saturated).covariance.diagonal(dim1=-2, dim2=-1) > 0).all())
