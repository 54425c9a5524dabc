"""Laws of the splines (unity, hull, slope) and of the curves of tokens (inverse, shifts)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens.curves import Curve, design, final_slope, knots

SPLINES = st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, min(count - 1, 5))))
seeds = st.integers(0, 999)
ZERO, ONE = np.zeros(1), np.ones(1)


def points(count, seed, size=3):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size))


@given(SPLINES, seeds)
def test_a_curve_lies_in_its_hull_and_ends_at_its_end_points(shape, seed):
    c, weights = points(shape[0], seed), design(np.linspace(0, 1, 33), *shape)
    assert weights.shape == (33, shape[0]) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose((weights @ c)[[0, -1]], c[[0, -1]], atol=1e-12)
    np.testing.assert_allclose(np.diff(knots(*shape)[shape[1] : shape[0] + 1]), 1 / (shape[0] - shape[1]))


@given(SPLINES, seeds)
def test_the_slope_at_the_end_is_the_limit_of_differences(shape, seed):
    c, h = points(shape[0], seed), 1e-6
    below, at = design(np.array([1 - h, 1]), *shape) @ c
    exact = final_slope(c, shape[1])
    np.testing.assert_allclose((at - below) / h, exact, atol=1e-4 * max(1, np.abs(exact).max()))


def test_what_no_spline_can_be_is_refused():
    with pytest.raises(ValueError, match=r"^degree=3: 0 to 2 for 3 control points$"):
        knots(3, 3)


# Tokens.

shapes = st.integers(1, 8).flatmap(
    lambda length: st.integers(1, length).flatmap(
        lambda knots: st.tuples(st.just(length), st.just(knots), st.integers(0, knots - 1))
    )
)


def uniform(*shape, seed=0):
    """Numbers in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(shapes, st.integers(0, 99))
def test_actions_are_the_spline_at_the_middles_of_the_steps(shape, seed):
    """And every control point is felt."""
    curve = Curve.of(*shape, 2)
    token = uniform(5, curve.size, seed=seed)
    middles = (np.arange(shape[0]) + 0.5) / shape[0]
    weights = torch.from_numpy(design(middles, *shape[1:])).float()
    assert (weights.sum(0) > 0).all()
    assert torch.allclose(curve.decode(token), weights @ token.unflatten(-1, (-1, 2)), atol=1e-6)


@given(shapes, st.integers(0, 99))
def test_encoding_undoes_decoding(shape, seed):
    curve = Curve.of(*shape, 3)
    token = uniform(2, 4, curve.size, seed=seed)
    actions = curve.decode(token)
    assert actions.shape == (2, 4, shape[0], 3)
    assert torch.allclose(curve.encode(actions), token, atol=1e-3)


@given(shapes, st.integers(0, 99))
def test_encoding_is_least_squares_within_bounds(shape, seed):
    curve = Curve.of(*shape, 2)
    actions = 0.1 * uniform(3, shape[0], 2, seed=seed)
    token = curve.encode(actions)
    assert token.abs().max() <= 1
    if token.abs().max() < 1:  # nothing was clamped: what is left over is orthogonal to every curve
        left = actions - curve.decode(token)
        assert (curve.weights.T @ left).abs().max() < 1e-4
    assert curve.encode(100 * actions).abs().max() <= 1


@given(st.integers(2, 6), st.integers(0, 30), st.integers(1, 4))
def test_where_each_step_has_a_point_advancing_shifts_the_actions(length, steps, count):
    """K = L interpolates, so nothing is lost in the middle of a token either."""
    curve = Curve.of(length, length, 0, 2)
    sentence = uniform(count, 3, curve.size)
    actions = curve.decode(sentence).movedim(0, 1).flatten(1, 2)
    later = curve.decode(curve.advance(sentence, steps)).movedim(0, 1).flatten(1, 2)
    each = torch.tensor([steps, 1, 2 * length])
    for b, own in enumerate(each.tolist()):
        assert torch.equal(curve.advance_each(sentence, each)[:, b], curve.advance(sentence[:, b], own))
    if steps % length:
        wanted = torch.cat([actions[:, steps:], actions[:, -1:].expand(-1, steps, -1)], 1)[:, : count * length]
    else:
        wanted = curve.decode(sentence[[min(i + steps // length, count - 1) for i in range(count)]])
        wanted = wanted.movedim(0, 1).flatten(1, 2)
    assert torch.allclose(later, wanted, atol=1e-5)


def test_a_sentence_is_its_tokens_actions_and_then_its_last_one():
    curve = Curve.of(4, 2, 1, 2)
    sentence = torch.rand(3, 5, 4) * 2 - 1
    each = [curve.decode(token) for token in sentence]
    for steps in (1, 4, 6, 12, 15):
        actions = curve.actions(sentence, steps)
        assert torch.equal(actions[:, :12], torch.cat(each, 1)[:, :steps])
        assert torch.equal(actions[:, 12:], each[-1][:, -1:].expand(-1, max(steps - 12, 0), -1))


@given(shapes, st.integers(1, 20))
def test_where_a_curve_is_after_some_steps_is_halfway_to_the_next_one(shape, steps):
    """At the end of a token: its last control point, where a joined one goes on."""
    curve, plan = Curve.of(*shape, 2), uniform(20, 3, shape[1] * 2)
    token, within = divmod(steps - 1, shape[0])
    weights = torch.from_numpy(design(np.array([(within + 1) / shape[0]]), *shape[1:])).float()
    assert torch.allclose(curve.at(plan, steps), (weights @ plan[token].unflatten(-1, (-1, 2)))[:, 0], atol=1e-6)
    if within + 1 == shape[0]:
        assert torch.allclose(curve.at(plan, steps), plan[token][:, -2:], atol=1e-6)
