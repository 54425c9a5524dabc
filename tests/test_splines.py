"""Laws of the splines: unity, hull, polynomials, derivatives, ends, ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens.curves import beginning, design, differences, knots, midpoints

shapes = st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, min(count - 1, 5))))
seeds = st.integers(0, 999)
ZERO, ONE = np.zeros(1), np.ones(1)


def points(count, seed, size=3):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size))


@given(shapes, seeds)
def test_weights_are_a_partition_of_unity(shape, seed):
    at = np.random.default_rng(seed).uniform(0, 1, 20)
    weights = design(at, *shape)
    assert weights.shape == (20, shape[0])
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


@given(shapes, seeds)
def test_a_curve_lies_in_its_hull_and_ends_at_its_end_points(shape, seed):
    c = points(shape[0], seed)
    y = design(np.linspace(0, 1, 33), *shape) @ c
    assert (y <= c.max(0) + 1e-12).all() and (y >= c.min(0) - 1e-12).all()
    np.testing.assert_allclose(y[0], c[0], atol=1e-12)
    np.testing.assert_allclose(y[-1], c[-1], atol=1e-12)


@given(shapes, seeds)
def test_polynomials_up_to_the_degree_are_exact(shape, seed):
    """And the one of the next degree is not, unless there are as many control points."""
    count, degree = shape
    at = np.random.default_rng(seed).uniform(0, 1, 30)
    weights = design(at, count, degree)
    for power in range(degree + 1):
        found, *_ = np.linalg.lstsq(weights, at**power, rcond=None)
        np.testing.assert_allclose(weights @ found, at**power, atol=1e-9)


@given(shapes, seeds)
def test_the_least_squares_fit_undoes_evaluation(shape, seed):
    c = points(shape[0], seed)
    weights = design(midpoints(4 * shape[0]), *shape)
    found, *_ = np.linalg.lstsq(weights, weights @ c, rcond=None)
    np.testing.assert_allclose(found, c, atol=1e-8)


@given(shapes, st.integers(1, 3), seeds)
def test_derivatives_are_the_limit_of_differences(shape, order, seed):
    count, degree = shape
    if order > degree:
        assert not design(np.linspace(0, 1, 5), count, degree, order).any()
        return
    c, at, h = points(count, seed), np.random.default_rng(seed).uniform(0.05, 0.95, 10), 1e-6
    at = at[np.abs(at[:, None] - knots(count, degree)).min(1) > 2 * h]  # a derivative may jump at a knot
    below, above = (design(at + s * h, count, degree, order - 1) @ c for s in (-1, 1))
    exact = design(at, count, degree, order) @ c
    np.testing.assert_allclose((above - below) / (2 * h), exact, atol=1e-4 * max(1, np.abs(exact).max(initial=0)))


@given(shapes, seeds)
def test_a_bound_on_control_points_differences_bounds_the_rate(shape, seed):
    count, degree = shape
    if degree < 1:
        return
    c = points(count, seed)
    rate = design(np.linspace(0, 1, 50), count, degree, 1) @ c
    assert (np.abs(rate) <= np.abs(differences(count, degree) @ c).max(0) + 1e-9).all()


@given(shapes, shapes, seeds)
def test_a_tied_curve_goes_on_where_the_last_one_stopped(one, other, seed):
    """Position always, rate where both have one."""
    (count, degree), (count2, degree2) = one, other
    c, d = points(count, seed), points(count2, seed + 1)
    end, slope = design(ONE, count, degree) @ c, design(ONE, count, degree, 1) @ c
    rate = slope[0] if degree2 >= 1 else None
    tied = beginning(end[0], rate, count2, degree2)
    d[: len(tied)] = tied
    np.testing.assert_allclose(design(ZERO, count2, degree2) @ d, end, atol=1e-9)
    if degree2 >= 1:
        np.testing.assert_allclose(design(ZERO, count2, degree2, 1) @ d, slope, atol=1e-6)


@given(st.integers(1, 20))
def test_steps_are_evenly_spaced_across_a_joint(length):
    steps = np.concatenate([midpoints(length), 1 + midpoints(length)])
    np.testing.assert_allclose(np.diff(steps), 1 / length)


def test_what_no_spline_can_be_is_refused():
    with pytest.raises(ValueError, match=r"^degree=3: 0 to 2 for 3 control points$"):
        knots(3, 3)
    with pytest.raises(ValueError, match="order=2"):
        differences(4, 1, 2)
    with pytest.raises(ValueError, match="no rate"):
        beginning(np.zeros(2), np.zeros(2), 3, 0)
