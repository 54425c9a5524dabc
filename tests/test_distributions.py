"""Laws of the two-hot code (inverses, least cross-entropy, range) and of the squashed Gaussian (torch's own)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worldmodel.layers import (
    BOUND,
    LOG_STD_MAX,
    LOG_STD_MIN,
    SquashedGaussian,
    bins,
    symexp,
    symlog,
    twohot_cross_entropy,
    twohot_mean,
)

LIMIT = float(torch.expm1(torch.tensor(BOUND, dtype=torch.float64)))


def two_hot_logits(x: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of the two-hot code of x (...,): what the cross-entropy to x pulls towards, read off its gradient.

    At even logits that gradient is 1 / count - code.
    """
    even = torch.zeros(x.numel(), count, requires_grad=True)
    (gradient,) = torch.autograd.grad(twohot_cross_entropy(even, x.flatten()).sum(), even)
    return (1 / count - gradient).clamp(min=1e-12).log().view(*x.shape, count)


@given(st.floats(-1e6, 1e6))
def test_symexp_undoes_symlog(x):
    x = torch.tensor(x, dtype=torch.float64)
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-12, atol=1e-12)
    assert symlog(-x) == -symlog(x)


@pytest.mark.parametrize("count", [3, 11, 101])
def test_the_mean_of_a_code_is_the_number_coded(count):
    x = torch.cat([torch.linspace(-5, 5, 41), torch.linspace(-LIMIT, LIMIT, 41), symexp(bins(count))])
    assert torch.allclose(twohot_mean(two_hot_logits(x, count)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x", [1e5, 1e30, torch.inf])
def test_beyond_the_bound_a_number_counts_as_the_bound(x):
    logits = torch.randn(2, 11, generator=torch.Generator().manual_seed(0))
    for sign in (-1, 1):
        far = twohot_cross_entropy(logits, torch.full((2,), sign * x))
        assert torch.equal(far, -logits.log_softmax(-1)[:, 0 if sign < 0 else -1])


def test_it_is_the_distribution_torch_knows(generator):
    mean, log_std, noise = (torch.randn(3, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    log_std = 0.5 * log_std - 1
    known = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    w, log_density = SquashedGaussian(mean, log_std).sample(noise)
    assert torch.equal(w, torch.tanh(mean + noise * log_std.exp()))
    inside = (w.abs() < 0.999).all(-1)
    assert inside.sum() > 10
    assert torch.allclose(log_density[inside], known.log_prob(w)[inside], rtol=1e-9)


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
