"""Laws of the curves: hull, inverse, symmetry, and the ordinary action as the limit case."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens.curves import Curve, design, midpoints

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
    weights = torch.from_numpy(design(midpoints(shape[0]), *shape[1:])).float()
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


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_one_point_is_one_action_held(length):
    curve = Curve.of(length, 1, 0, 3)
    token = uniform(6, 3)
    assert torch.equal(curve.decode(token), token.unsqueeze(1).expand(6, length, 3))


def test_one_step_and_one_point_change_no_bit():
    curve = Curve.of(1, 1, 0, 6)
    token = uniform(3, 128, 6)
    assert torch.equal(curve.decode(token), token.unsqueeze(-2))
    assert torch.equal(curve.encode(token.unsqueeze(-2)), token)


@given(shapes, st.integers(0, 4), st.integers(1, 4))
def test_advancing_by_whole_tokens_is_exact_and_holds_the_last(shape, tokens, count):
    curve = Curve.of(*shape, 2)
    sentence = uniform(count, 3, curve.size)
    later = curve.advance(sentence, tokens * shape[0])
    for i in range(count):
        assert torch.equal(later[i], sentence[min(i + tokens, count - 1)])


@given(st.integers(2, 6), st.integers(0, 30), st.integers(1, 4))
def test_where_each_step_has_a_point_advancing_shifts_the_actions(length, steps, count):
    """K = L interpolates, so nothing is lost in the middle of a token either."""
    curve = Curve.of(length, length, 0, 2)
    sentence = uniform(count, 3, curve.size)
    actions = curve.decode(sentence).movedim(0, 1).flatten(1, 2)
    later = curve.decode(curve.advance(sentence, steps)).movedim(0, 1).flatten(1, 2)
    if steps % length:
        wanted = torch.cat([actions[:, steps:], actions[:, -1:].expand(-1, steps, -1)], 1)[:, : count * length]
    else:
        wanted = curve.decode(sentence[[min(i + steps // length, count - 1) for i in range(count)]])
        wanted = wanted.movedim(0, 1).flatten(1, 2)
    assert torch.allclose(later, wanted, atol=1e-5)


@given(shapes, st.integers(0, 20))
def test_what_is_held_stays_held(shape, steps):
    curve = Curve.of(*shape, 2)
    sentence = uniform(2).repeat(shape[1]).expand(3, 1, -1)
    assert torch.allclose(curve.advance(sentence, steps), sentence, atol=1e-5)


def test_a_sentence_is_its_tokens_actions_and_then_its_last_one():
    curve = Curve.of(4, 2, 1, 2)
    sentence = torch.rand(3, 5, 4) * 2 - 1
    each = [curve.decode(token) for token in sentence]
    for steps in (1, 4, 6, 12, 15):
        actions = curve.actions(sentence, steps)
        assert torch.equal(actions[:, :12], torch.cat(each, 1)[:, :steps])
        assert torch.equal(actions[:, 12:], each[-1][:, -1:].expand(-1, max(steps - 12, 0), -1))


def test_sentences_advance_each_by_its_own_steps():
    curve = Curve.of(4, 2, 1, 2)
    sentences, steps = torch.rand(3, 5, 4) * 2 - 1, torch.tensor([4, 2, 8, 2, 1])
    later = curve.advance_each(sentences, steps)
    for b, count in enumerate(steps.tolist()):
        assert torch.equal(later[:, b], curve.advance(sentences[:, b], count))
