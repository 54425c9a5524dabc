"""Laws of the squashed Gaussian: it is a density, the density of its samples, and the one torch computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worldmodel.gaussian import LOG_STD_MAX, LOG_STD_MIN, REACH, SquashedGaussian

numbers = st.floats(-1.5, 1.5)
spreads = st.floats(-3.0, 0.0)


def gaussian(mean, log_std):
    """In double precision, with one entry each."""
    return SquashedGaussian(*(torch.tensor([x], dtype=torch.float64) for x in (mean, log_std)))


@given(numbers, spreads)
def test_the_density_integrates_to_one(mean, log_std):
    u = torch.linspace(-3.79, 3.79, 20_001, dtype=torch.float64)  # tanh of it: just inside the edges moved in
    w = torch.tanh(u).unsqueeze(-1)
    within = Normal(mean, torch.tensor(log_std, dtype=torch.float64).exp()).cdf(u[[0, -1]])
    area = torch.trapezoid(gaussian(mean, log_std).log_density(w).exp(), w.squeeze(-1))
    assert area == pytest.approx(float(within[1] - within[0]), abs=1e-4)
    assert area > 0.95 or log_std > -0.7


@given(numbers, spreads, st.floats(-2.0, 2.0))
def test_a_sample_comes_with_its_own_density(mean, log_std, noise):
    policy = gaussian(mean, log_std)
    w, log_density = policy.sample(torch.tensor([noise], dtype=torch.float64))
    if w.abs() < 0.999:
        assert log_density == pytest.approx(float(policy.log_density(w)), abs=1e-6)


def test_it_is_the_distribution_torch_knows(generator):
    mean, log_std, noise = (torch.randn(3, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    log_std = 0.5 * log_std - 1
    known = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    policy = SquashedGaussian(mean, log_std)
    w, log_density = policy.sample(noise)
    assert w.shape == (3, 7, 4) and log_density.shape == (3, 7)
    inside = (w.abs() < 0.999).all(-1)
    assert inside.sum() > 10
    assert torch.allclose(log_density[inside], known.log_prob(w)[inside], rtol=1e-9)
    assert torch.allclose(policy.log_density(w)[inside], known.log_prob(w)[inside], rtol=1e-9)


def test_gradients_flow_through_a_sample(generator):
    mean, log_std = (torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: SquashedGaussian(m, s).sample(noise), (mean, log_std))


@pytest.mark.parametrize("mean", [-100.0, -40.0, 40.0, 100.0])
def test_a_saturated_sample_keeps_a_finite_density(mean):
    policy = SquashedGaussian(torch.tensor([mean]), torch.tensor([-1.0]))
    w, log_density = policy.sample(torch.zeros(1))
    assert w == (1 if mean > 0 else -1)
    slope = 2 * (torch.log(torch.tensor(2.0)) - abs(mean))  # log(1 - tanh(u)^2) far out
    assert log_density == pytest.approx(float(1 - 0.5 * torch.log(torch.tensor(2 * torch.pi)) - slope), rel=1e-5)
    assert policy.log_density(w).isfinite()


@given(st.floats(-1e6, 1e6))
def test_the_spread_is_bounded(raw):
    policy = SquashedGaussian.from_logits(torch.tensor([[0.3, raw]]))
    assert LOG_STD_MIN <= policy.log_std <= LOG_STD_MAX
    assert policy.mean == torch.tensor(0.3)


def test_the_mode_is_the_sample_without_noise(generator):
    policy = SquashedGaussian.from_logits(torch.randn(6, 8, generator=generator))
    assert torch.equal(policy.mode, policy.sample(torch.zeros(6, 4))[0])


def ranked(generator, *shape, rank=2):
    """With axes, in double precision."""
    mean, log_std = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    axes = 0.6 * torch.randn(*shape, rank, generator=generator, dtype=torch.float64)
    return SquashedGaussian(0.3 * mean, 0.3 * log_std - 1, axes)


def dense(policy):
    """The same by its whole covariance, as torch knows it."""
    covariance = policy.factor @ policy.factor.mT + torch.diag_embed((2 * policy.log_std).exp())
    normal = MultivariateNormal(policy.mean, covariance)
    return TransformedDistribution(normal, [TanhTransform()])


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_with_axes_it_is_the_gaussian_of_its_factor(generator, rank):
    policy = ranked(generator, 3, 7, 4, rank=rank)
    w, log_density = policy.sample(torch.randn(3, 7, 4, generator=generator, dtype=torch.float64))
    inside = (w.abs() < 0.999).all(-1)
    assert inside.sum() > 10
    known = dense(policy).log_prob(w)[inside]
    assert torch.allclose(log_density[inside], known, rtol=1e-8)
    assert torch.allclose(policy.log_density(w)[inside], known, rtol=1e-8)


def test_samples_with_axes_have_its_covariance(generator):
    policy = ranked(generator, 3)
    w, _ = policy.sample(torch.randn(200_000, 3, generator=generator, dtype=torch.float64))
    whole = policy.factor @ policy.factor.mT + torch.diag((2 * policy.log_std).exp())
    found = torch.cov(torch.atanh(w).mT)
    error = (whole.diagonal().outer(whole.diagonal()) / 100_000).sqrt()
    assert ((found - whole).abs() < 5 * error).all()
    assert (found - torch.diag(whole.diagonal())).abs().max() > 20 * error.max()  # it is no diagonal one


def test_gradients_flow_through_a_sample_with_axes(generator):
    policy = ranked(generator, 4, 3)
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    leaves = tuple(x.requires_grad_() for x in (policy.mean, policy.log_std, policy.axes))
    assert torch.autograd.gradcheck(lambda *fields: SquashedGaussian(*fields).sample(noise), leaves)


@given(st.floats(-1e6, 1e6))
def test_no_axis_is_longer_than_its_reach(raw):
    policy = SquashedGaussian.from_logits(torch.full((1, 20), raw), rank=3)
    assert policy.axes.shape == (1, 4, 3)
    assert float(policy.axes.norm(dim=1).max()) <= REACH + 1e-6
