"""Laws of the token as a manifold: torch's Gaussian, Bayes' rule, products, limits, tubes, and mixtures of them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from policies.distributions.manifold import Manifold
from policies.distributions.mixture import Mixture, fit, k_means
from policies.distributions.tube import Strand, within
from policies.tokens.splines import design, midpoints

STRAND = Strand(5, 2, 3)
SIZE = STRAND.knots * STRAND.size
MIDDLE, END = STRAND.rows(0.5), STRAND.rows(1.0)

seeds = st.integers(0, 999)
batches = st.sampled_from([(), (3,), (2, 3)])
ranks = st.integers(0, SIZE)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def manifold(seed=0, batch=(), rank=3):
    """Any token: mean, factor, and uneven rests between 0.01 and 0.06."""
    rest = 0.01 + 0.05 * torch.sigmoid(normal(*batch, SIZE, seed=seed + 2))
    return Manifold.of(normal(*batch, SIZE, seed=seed), 0.4 * normal(*batch, SIZE, rank, seed=seed + 1), rest)


def dense(m):
    """The same distribution, by torch."""
    return MultivariateNormal(m.mean, m.covariance)


def close(one, other, atol=1e-8):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def same(one, other, atol=1e-8):
    close(one.mean, other.mean, atol)
    close(one.covariance, other.covariance, atol)


@given(seeds, batches, ranks)
def test_a_factor_and_a_rest_are_its_covariance(seed, batch, rank):
    factor, rest = normal(*batch, SIZE, rank, seed=seed), 0.1 + normal(*batch, SIZE, seed=seed).square()
    m = Manifold.of(normal(*batch, SIZE), factor, rest)
    close(m.covariance, factor @ factor.mT + torch.diag_embed(rest), 1e-10)
    close(m.axes.mT @ m.axes, torch.eye(rank, dtype=torch.double).expand(*batch, -1, -1), 1e-10)


@given(seeds, batches, ranks)
@settings(max_examples=30)
def test_density_entropy_and_divergence_are_those_of_the_dense_gaussian(seed, batch, rank):
    m, other = manifold(seed, batch, rank), manifold(seed + 10, batch, 2)
    w = normal(4, *batch, SIZE, seed=seed + 3)
    whole = dense(m)
    torch.testing.assert_close(m.log_density(w), whole.log_prob(w), rtol=1e-8, atol=1e-8)
    close(m.entropy, whole.entropy())
    torch.testing.assert_close(m.divergence(other), kl_divergence(whole, dense(other)), rtol=1e-8, atol=1e-8)
    close(m.divergence(m), torch.zeros(batch, dtype=torch.double))


def test_the_density_integrates_to_one():
    """On a grid over two numbers, after conditioning too."""
    m = Manifold.of(torch.tensor([0.3, -0.2]), torch.tensor([[0.5], [0.4]]), torch.tensor([0.1, 0.2])).condition(
        torch.tensor([[1.0, 1.0]]), torch.tensor([0.4]), 0.3
    )
    axis = torch.linspace(-5, 5, 401)
    grid = torch.cartesian_prod(axis, axis)
    assert float(m.log_density(grid).exp().sum() * 0.025**2) == pytest.approx(1, abs=1e-4)


@given(seeds, st.booleans())
@settings(max_examples=10)
def test_samples_have_its_moments(seed, conditioned):
    m = manifold(seed)
    if conditioned:
        m = m.condition(END, normal(2, seed=seed), 0.05)
    count = 40000
    w = m.sample(normal(count, SIZE, seed=seed + 5))
    deviation = m.covariance.diagonal().sqrt()
    assert ((w.mean(0) - m.mean).abs() < 5 * deviation / count**0.5).all()
    error = 2 * deviation[:, None] * deviation / count**0.5
    assert ((torch.cov(w.mT) - m.covariance).abs() < 5 * error).all()


@given(seeds, batches)
def test_conditioning_exactly_reproduces_the_via_point(seed, batch):
    """Position and rate at the beginning, a via-point and the end: in the mean and in every sample."""
    m = manifold(seed, batch)
    for rows in (STRAND.state_rows(), MIDDLE, END):
        value = normal(len(rows), seed=seed + len(rows))
        told = m.condition(rows, value)
        close(told.mean @ rows.mT, value.expand(*batch, -1))
        close(told.sample(normal(7, *batch, SIZE)) @ rows.mT, value.expand(7, *batch, -1))
        assert float(told.read(rows)[1].abs().max()) < 1e-6
        assert bool((told.entropy == -torch.inf).all())
    curve = STRAND.decode(told.mean, np.array([1.0]))[..., 0, :]
    close(curve, value.expand(*batch, -1))


@given(seeds, st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
def test_conditioning_is_bayes_rule(seed, deviation):
    """The textbook's posterior, with whole matrices; and for a measurement that says nothing, no change."""
    m, value = manifold(seed), normal(2, seed=seed)
    told = m.condition(MIDDLE, value, deviation)
    cross = m.covariance @ MIDDLE.mT
    weight = cross @ torch.linalg.inv(MIDDLE @ cross + deviation**2 * torch.eye(2, dtype=torch.double))
    close(told.mean, m.mean + weight @ (value - MIDDLE @ m.mean))
    close(told.covariance, m.covariance - weight @ cross.mT)
    same(m.condition(MIDDLE, value, 1e9), m)


@given(seeds, st.floats(0.05, 1.0))
def test_evidence_is_what_bayes_rule_divides_by(seed, deviation):
    """log p(y | w) + log p(w) - log p(w | y) = log p(y), whatever w."""
    m, value = manifold(seed, (3,)), normal(3, 2, seed=seed)
    w = m.sample(normal(5, 3, SIZE, seed=seed + 1))
    likelihood = torch.distributions.Normal(w @ MIDDLE.mT, deviation).log_prob(value).sum(-1)
    told = m.condition(MIDDLE, value, deviation)
    evidence = likelihood + m.log_density(w) - told.log_density(w)
    torch.testing.assert_close(evidence, m.evidence(MIDDLE, value, deviation).expand(5, 3), rtol=1e-7, atol=1e-7)


@given(seeds, st.floats(0.0, 1.0))
def test_measurements_may_come_in_any_order_or_at_once(seed, deviation):
    m, value = manifold(seed), normal(4, seed=seed)
    one = m.condition(MIDDLE, value[:2], deviation).condition(END, value[2:], deviation)
    other = m.condition(END, value[2:], deviation).condition(MIDDLE, value[:2], deviation)
    same(one, other)
    same(one, m.condition(torch.cat([MIDDLE, END]), value, deviation))


@given(seeds, st.floats(1e-3, 1.0))
def test_conditioning_lowers_entropy_and_no_tube_widens(seed, deviation):
    m = manifold(seed)
    told = m.condition(MIDDLE, normal(2, seed=seed), deviation)
    assert float(told.entropy) < float(m.entropy)
    times = np.linspace(0, 1, 9)
    assert (STRAND.tube(told, times)[1] <= STRAND.tube(m, times)[1] + 1e-9).all()


@given(seeds, batches, st.floats(1e-3, 1.0))
def test_composing_over_the_base_is_conditioning_one_on_the_other(seed, batch, deviation):
    base = manifold(seed, batch)
    first, second = (MIDDLE, normal(2, seed=seed)), (END, normal(2, seed=seed + 1))
    one, other = base.condition(*first, deviation), base.condition(*second, deviation)
    same(one.times(other, base), one.condition(*second, deviation))
    same(other.times(one, base), one.condition(*second, deviation))
    same(one.times(base, base), one)


@given(seeds, batches)
def test_the_product_is_symmetric_and_that_of_the_dense_gaussians(seed, batch):
    one, other = manifold(seed, batch), manifold(seed + 10, batch, 5)
    product = one.times(other)
    same(product, other.times(one))
    precisions = [torch.linalg.inv(m.covariance) for m in (one, other)]
    covariance = torch.linalg.inv(precisions[0] + precisions[1])
    pulls = sum((p @ m.mean[..., None])[..., 0] for p, m in zip(precisions, (one, other), strict=True))
    close(product.covariance, covariance)
    close(product.mean, (covariance @ pulls[..., None])[..., 0])
    w = normal(2, *batch, SIZE, seed=seed)  # densities multiply, up to a constant
    gap = one.log_density(w) + other.log_density(w) - product.log_density(w)
    torch.testing.assert_close(gap[0], gap[1], rtol=1e-7, atol=1e-7)


def test_a_product_with_an_ever_firmer_token_tends_to_conditioning():
    """The limit of the product with one that knows only the end is the token conditioned on it exactly."""
    m, value = manifold(), torch.tensor([0.3, -0.4], dtype=torch.double)
    told = m.condition(END, value)
    for deviation in (1e-1, 1e-2, 1e-3):
        wide = Manifold.of(torch.zeros(SIZE).double(), torch.zeros(SIZE, 0).double(), torch.full((SIZE,), 1e4).double())
        product = m.times(wide.condition(END, value, deviation))
        assert float((product.mean - told.mean).abs().max()) < 300 * deviation**2


def test_what_is_known_exactly_is_refused_where_it_cannot_be_used():
    m, value = manifold(), torch.zeros(2, dtype=torch.double)
    told = m.condition(END, value)
    for act, message in (
        (lambda: told.condition(END, value), "fix what is fixed already"),
        (lambda: m.condition(torch.cat([END, END]), torch.cat([value, value])), "fix what is fixed already"),
        (lambda: told.log_density(value.new_zeros(SIZE)), "has no density"),
        (lambda: told.times(m), "has no precision"),
        (lambda: m.times(m, m.condition(END, value, 1e-3)), "narrower than the product"),
        (lambda: Manifold.of(m.mean, m.axes, torch.zeros_like(m.mean)), "variances above 0"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)
    same(told.condition(END, value, 0.1), told)  # with a deviation it says nothing new


@given(seeds, st.integers(0, SIZE))
def test_the_nearest_of_a_rank_is_exact_where_it_can_be_and_keeps_all_spread(seed, rank):
    factor = normal(SIZE, rank, seed=seed)
    scatter = factor @ factor.mT + 0.04 * torch.eye(SIZE, dtype=torch.double)
    close(Manifold.nearest(normal(SIZE), scatter, rank, floor=0.2).covariance, scatter)
    any_scatter = normal(SIZE, SIZE, seed=seed) @ normal(SIZE, SIZE, seed=seed).mT
    found = Manifold.nearest(normal(SIZE), any_scatter, rank).covariance
    if rank < SIZE:
        close(found.trace(), any_scatter.trace())
    assert float(found.trace()) <= float(any_scatter.trace()) + 1e-4


@given(seeds)
@settings(max_examples=5)
def test_the_tube_covers_its_share_of_the_curves(seed):
    m, times = manifold(seed).condition(END, normal(2, seed=seed), 0.1), np.linspace(0, 1, 11)
    mean, deviation = STRAND.tube(m, times)
    assert mean.shape == deviation.shape == (11, 2)
    curves = STRAND.decode(m.sample(normal(20000, SIZE, seed=seed)), times)
    inside = ((curves - mean).abs() <= 1.6449 * deviation).double().mean(0)
    assert ((inside - 0.9).abs() < 0.012).all()


@given(seeds, st.integers(0, 2))
def test_rows_read_what_the_curve_does(seed, derivative):
    w, times = normal(3, SIZE, seed=seed), np.linspace(0, 1, 4)
    values = torch.from_numpy(design(times, STRAND.knots, STRAND.degree, derivative)) @ w.unflatten(-1, (5, 2))
    read = w @ STRAND.rows(times, derivative).mT
    close(read.unflatten(-1, (4, 2)), values)
    close(w @ STRAND.rows(times, derivative, [1]).mT, values[..., 1])
    chunk = STRAND.decode(w, midpoints(20))
    close(STRAND.encode(chunk), w)


@given(seeds)
def test_a_bounded_token_still_reads_what_it_must(seed):
    value = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double) * 2 - 1
    value[0] = 1.0  # only one curve can
    rows = STRAND.rows(0.97)
    w = within(2 * normal(4, SIZE, seed=seed), rows, value)
    assert float(w.abs().max()) <= 1
    close(w @ rows.mT, value, 1e-6)
    inside = 0.9 * torch.tanh(normal(4, SIZE, seed=seed))
    close(within(inside, rows, inside @ rows.mT), inside)  # nothing to do, nothing done


def test_a_manifold_becomes_a_move():
    move = STRAND.move(manifold(), 0.8)
    assert (move.points.shape, move.seconds, move.degree) == ((5, 2), 0.8, 3)
    np.testing.assert_allclose(move.spread.ravel(), manifold().covariance.diagonal().sqrt())
    np.testing.assert_allclose(move.points.ravel(), manifold().mean.clamp(-1, 1))


def clusters(seed=0, count=3, each=400):
    """Points around `count` tokens that lie far apart, and those tokens."""
    made = [manifold(100 * k + seed) for k in range(count)]
    points = torch.cat([m.sample(normal(each, SIZE, seed=k)) + 8 * k for k, m in enumerate(made)])
    return points, made


def test_k_means_finds_clusters_and_their_means(generator):
    points, _ = clusters()
    chosen, centres = k_means(points, 3, generator)
    for part in chosen.split(400):
        assert (part == part[0]).all()
        close(centres[part[0]], points[chosen == part[0]].mean(0))
    with pytest.raises(ValueError, match=r"^count=4: from 1 to 3, the number of points$"):
        k_means(points[:3], 4, generator)


@given(st.integers(1, 6), seeds)
@settings(max_examples=20)
def test_k_means_leaves_every_point_with_its_nearest_mean(count, seed):
    points = normal(60, 4, seed=seed)
    chosen, centres = k_means(points, count, torch.Generator().manual_seed(seed))
    distances = (points[:, None] - centres).square().sum(-1)
    close(distances.amin(1), distances.gather(1, chosen[:, None])[:, 0])


def test_a_fitted_mixture_has_the_clusters_moments(generator):
    points, made = clusters(each=2000)
    book = fit(points, 3, SIZE, 1e-6, generator)
    close(book.log_weights.exp(), torch.full((3,), 1 / 3, dtype=torch.double), 1e-3)
    order = book.tokens.mean.mean(1).argsort()
    for k, m in zip(order, made, strict=True):
        assert float((book.tokens[k].covariance - m.covariance).abs().max()) < 0.15 * float(m.covariance.abs().max())


def test_a_small_cluster_is_shrunk_towards_the_others(generator):
    """One point alone has no scatter: it gets the pooled one, so that its token has a density."""
    points, _ = clusters(count=2)
    points = torch.cat([points, torch.full((1, SIZE), 50.0, dtype=torch.double)])
    book = fit(points, 3, 3, 5.0, generator)
    alone = book.tokens.mean.mean(1).argmax()
    assert book.tokens.covariance[alone].diagonal().mean() > 0.05
    with pytest.raises(ValueError, match=r"^prior=0"):
        fit(points, 3, 3, 0.0, generator)


def book(seed=0, count=4):
    weights = torch.softmax(normal(count, seed=seed), -1).log()
    return Mixture(weights, manifold(seed, (count,)))


@given(seeds)
def test_a_mixture_conditions_by_bayes_rule(seed):
    """For several values at once: log p(w | y) = log p(y | w) + log p(w) - log p(y), the same constant for every w."""
    prior, value = book(seed), normal(3, 2, seed=seed)
    told = prior.condition(END, value, 0.2)
    assert told.tokens.mean.shape == (3, 4, SIZE)
    close(told.log_weights.exp().sum(-1), torch.ones(3, dtype=torch.double))
    w = normal(2, 3, SIZE, seed=seed + 1)
    likelihood = torch.distributions.Normal(w @ END.mT, 0.2).log_prob(value).sum(-1)
    constant = likelihood + prior.log_density(w) - told.log_density(w)
    torch.testing.assert_close(constant[0], constant[1], rtol=1e-7, atol=1e-7)


def test_a_mixture_of_one_is_its_token():
    m = manifold(3)
    one = Mixture(torch.zeros(1, dtype=torch.double), manifold(3, (1,)))
    w = normal(5, SIZE)
    close(one.log_density(w), one.tokens[0].log_density(w))
    told = one.condition(END, torch.zeros(2, dtype=torch.double), 0.1)
    same(told.tokens[0], one.tokens[0].condition(END, torch.zeros(2, dtype=torch.double), 0.1))
    for mine, its in zip(one.read(END), one.tokens[0].read(END), strict=True):
        close(mine, its)
    assert m.mean.shape == (SIZE,)


def test_samples_of_a_conditioned_mixture_have_its_moments_and_obey(generator):
    prior = book(5)
    value = torch.tensor([[0.2, -0.1], [1.0, 1.0]], dtype=torch.double)
    told = prior.condition(END, value, 0.0)
    w = told.sample(20000, generator)
    close(w @ END.mT, value[:, None].expand(-1, 20000, -1))
    mean, deviation = told.read(torch.eye(SIZE, dtype=torch.double))
    assert ((w.mean(1) - mean).abs() <= 5 * deviation / 20000**0.5 + 1e-9).all()
    torch.testing.assert_close(w.std(1), deviation, rtol=0.05, atol=1e-6)


def test_samples_are_shared_out_by_weight(generator):
    """Each token gets its share of the samples to within one, of however few."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
    far = Manifold.of(
        torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.double),
        torch.zeros(3, 1, 0, dtype=torch.double),
        torch.ones(3, 1, dtype=torch.double),
    )
    for count in (1, 7, 16):
        w = Mixture(weights.log(), far).sample(count, generator)
        shares = torch.bincount((w[:, 0] / 100).round().long(), minlength=3)
        assert ((shares - count * weights).abs() < 1 + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_does(dtype):
    m = manifold(2, (3,), 4)
    low = Manifold(*(getattr(m, name).to(dtype) for name in ("mean", "scale", "axes", "gain", "known")))
    rows, value = END.to(dtype), torch.full((2,), 0.25, dtype=dtype)
    told = low.condition(rows, value, 0.05).condition(MIDDLE.to(dtype), -value, 0.05)
    exact = m.condition(END, value.double(), 0.05).condition(MIDDLE, -value.double(), 0.05)
    assert told.mean.dtype == dtype
    close(told.mean.double(), exact.mean, 1e-4)
    close(told.entropy.double(), exact.entropy, 1e-2)
    assert all(bool(torch.isfinite(x).all()) for x in (told.sample(normal(3, SIZE).to(dtype)), *told.read(rows)))


def test_indexing_picks_tokens():
    m = manifold(0, (2, 3))
    for i, j in itertools.product(range(2), range(3)):
        close(m[i, j].covariance, m.covariance[i, j])


def test_a_clusters_scatter_is_taken_around_the_mean_of_other_groups(generator):
    """By hand: two groups, of two points and one, whose means are at 1 and 4."""
    points = torch.tensor([[0.0], [2.0], [4.0]], dtype=torch.double)
    book = fit(points, 1, 0, 1e-9, generator, groups=torch.tensor([7, 7, 3]))
    close(book.tokens.mean, torch.tensor([[2.0]], dtype=torch.double))
    close(book.tokens.covariance, torch.tensor([[[(16.0 + 4.0 + 9.0) / 3]]], dtype=torch.double), 1e-6)
    with pytest.raises(ValueError, match=r"^count=1: so many tokens that none has points of two groups"):
        fit(points, 1, 0, 1.0, generator, groups=torch.zeros(3, dtype=torch.long))


@given(seeds)
@settings(max_examples=5)
def test_held_out_groups_lie_as_far_out_as_the_fit_says(seed):
    """Groups of 20 points that share an offset: a scatter around their own means would be too small by far."""
    points = (2 * normal(12, 1, 3, seed=seed) + 0.1 * normal(12, 20, 3, seed=seed + 1)).flatten(0, 1)
    groups = torch.arange(12).repeat_interleave(20)
    book = fit(points, 3, 3, 20.0, torch.Generator().manual_seed(seed), groups)
    alone = fit(points, 3, 3, 20.0, torch.Generator().manual_seed(seed))
    fresh = 2 * normal(4000, 3, seed=seed + 2)
    assert float(book.log_density(fresh).mean()) > float(alone.log_density(fresh).mean())
