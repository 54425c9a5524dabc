"""Laws of the squashed Gaussian: it is the distribution that torch computes, bounded, and finite where it saturates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worldmodel.distributions import LOG_STD_MAX, LOG_STD_MIN, SquashedGaussian


def test_it_is_the_distribution_torch_knows(generator):
    mean, log_std, noise = (torch.randn(3, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    log_std = 0.5 * log_std - 1
    known = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    w, log_density = SquashedGaussian(mean, log_std).sample(noise)
    assert torch.equal(w, torch.tanh(mean + noise * log_std.exp()))
    inside = (w.abs() < 0.999).all(-1)
    assert inside.sum() > 10
    assert torch.allclose(log_density[inside], known.log_prob(w)[inside], rtol=1e-9)


def test_gradients_flow_through_a_sample(generator):
    mean, log_std = (torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: SquashedGaussian(m, s).sample(noise), (mean, log_std))


@pytest.mark.parametrize("mean", [-100.0, -40.0, 40.0, 100.0])
def test_a_saturated_sample_keeps_a_finite_density(mean):
    w, log_density = SquashedGaussian(torch.tensor([mean]), torch.tensor([-1.0])).sample(torch.zeros(1))
    assert w == (1 if mean > 0 else -1)
    slope = 2 * (torch.log(torch.tensor(2.0)) - abs(mean))  # log(1 - tanh(u)^2) far out
    assert log_density == pytest.approx(float(1 - 0.5 * torch.log(torch.tensor(2 * torch.pi)) - slope), rel=1e-5)


@given(st.floats(-1e6, 1e6))
def test_logits_are_the_mean_and_a_deviation_that_is_bounded(raw):
    policy = SquashedGaussian.from_logits(torch.tensor([[0.3, raw]]))
    assert policy.mean == torch.tensor(0.3)
    assert LOG_STD_MIN <= policy.log_std <= LOG_STD_MAX
    middle = SquashedGaussian.from_logits(torch.tensor([[0.3, -0.2, 0.0, 30.0]]))
    assert torch.equal(middle.mean, torch.tensor([[0.3, -0.2]]))
    assert torch.allclose(middle.log_std, torch.tensor([[(LOG_STD_MIN + LOG_STD_MAX) / 2, LOG_STD_MAX]]))


def test_the_mode_is_the_sample_without_noise(generator):
    policy = SquashedGaussian.from_logits(torch.randn(6, 8, generator=generator))
    assert torch.equal(policy.mode, policy.sample(torch.zeros(6, 4))[0])
