"""Laws of the two-hot code: inverses, what the cross-entropy is smallest at, its range."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel import distributions
from worldmodel.distributions import twohot_cross_entropy, twohot_mean

LIMIT = float(torch.expm1(torch.tensor(distributions.BOUND, dtype=torch.float64)))


@given(st.floats(-1e6, 1e6))
def test_symexp_undoes_symlog(x):
    x = torch.tensor(x, dtype=torch.float64)
    assert torch.allclose(distributions.symexp(distributions.symlog(x)), x, rtol=1e-12, atol=1e-12)
    assert distributions.symlog(-x) == -distributions.symlog(x)


@pytest.mark.parametrize("count", [3, 11, 101])
def test_the_mean_of_a_code_is_the_number_coded(toys, count):
    x = torch.cat(
        [torch.linspace(-5, 5, 41), torch.linspace(-LIMIT, LIMIT, 41), distributions.symexp(distributions.bins(count))]
    )
    assert torch.allclose(twohot_mean(toys.two_hot_logits(x, count)), x, rtol=1e-4, atol=1e-4)


def test_a_code_has_mass_on_the_two_nearest_bins_only(toys):
    x = torch.linspace(-20, 20, 101)
    code = toys.two_hot_logits(x, 11).exp()
    centre = distributions.bins(11)
    far = (centre - distributions.symlog(x).unsqueeze(-1)).abs() >= 2 * distributions.BOUND / 10
    assert torch.allclose(code.sum(-1), torch.ones(101), atol=1e-5)
    assert code[far].max() < 1e-6


@given(st.floats(-1e3, 1e3), st.integers(0, 2**31))
def test_cross_entropy_is_smallest_at_the_code_itself(toys, x, seed):
    x = torch.tensor([x])
    own = toys.two_hot_logits(x, 11)
    other = torch.randn(8, 11, generator=torch.Generator().manual_seed(seed))
    least = twohot_cross_entropy(own, x)
    assert (twohot_cross_entropy(other, x.expand(8)) >= least - 1e-5).all()
    nudged = own + 0.1 * other
    assert (twohot_cross_entropy(nudged, x.expand(8)) >= least - 1e-5).all()


@pytest.mark.parametrize("x", [1e5, 1e30, torch.inf])
def test_beyond_the_bound_a_number_counts_as_the_bound(x):
    logits = torch.randn(2, 11, generator=torch.Generator().manual_seed(0))
    for sign in (-1, 1):
        far = twohot_cross_entropy(logits, torch.full((2,), sign * x))
        assert torch.equal(far, -logits.log_softmax(-1)[:, 0 if sign < 0 else -1])


def test_not_a_number_stays_one():
    assert twohot_cross_entropy(torch.zeros(1, 11), torch.tensor([torch.nan])).isnan().all()


def test_every_head_is_compared_with_the_same_target():
    logits, x = torch.randn(2, 5, 11), torch.randn(5)
    both = twohot_cross_entropy(logits, x)
    assert torch.equal(both, torch.stack([twohot_cross_entropy(head, x) for head in logits]))
