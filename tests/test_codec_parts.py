"""What the codec is made of: cells that nest, bits most informative first, events that are fitted exactly."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.codec import CodecConfig
from policies.codec.bit_packing import BitPacking, order
from policies.codec.events import MIN_GAIN, Events, all_ramps, changes, fit_events, resting_levels
from policies.codec.scalar_quantizer import ScalarQuantizer, best_split
from policies.codec.spline_pca import SplinePCA
from policies.tokens.curves import differences, fit_from, knots


@pytest.fixture(scope="module")
def quantizer():
    rng = np.random.default_rng(0)
    return ScalarQuantizer.fit(np.stack([rng.normal(size=2000), rng.exponential(size=2000)], axis=1), 6)


def test_each_bit_halves_cells_and_lowers_the_error(quantizer):
    assert (np.diff(quantizer.errors, axis=1) < 0).all()
    assert quantizer.errors[:, 0] == pytest.approx([1, 1], rel=0.15)  # the variance
    for k, depth in ((0, 6), (1, 4)):
        edges = quantizer.edges(np.array([depth, depth]))[k]
        assert len(edges) == 2**depth - 1 and (np.diff(edges) > 0).all()


def test_one_bit_is_the_best_two_level_quantiser(quantizer):
    """For a normal number the two best levels are -+sqrt(2 / pi), and leave 1 - 2 / pi of the variance (Max 1960)."""
    assert quantizer.splits[0, 1] == pytest.approx(0, abs=0.15)
    assert quantizer.values[0, 2:4] == pytest.approx([-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)], abs=0.12)
    assert quantizer.errors[0, 1] / quantizer.errors[0, 0] == pytest.approx(1 - 2 / np.pi, abs=0.02)


@given(st.lists(st.integers(-9, 9), min_size=4, max_size=30))
def test_a_split_is_the_best_of_all_that_part_different_samples(samples):
    ordered = np.sort(np.array(samples, dtype=float))

    def error(at):
        return sum(((part - part.mean()) ** 2).sum() for part in (ordered[:at], ordered[at:]))

    places = [at for at in range(1, len(ordered)) if ordered[at - 1] < ordered[at]]
    found = best_split(ordered)
    assert found in places if places else found == 0
    assert not places or error(found) == pytest.approx(min(map(error, places)))


def test_a_value_lies_in_its_cell(quantizer):
    edges = quantizer.edges(np.array([5, 5]))
    for k in range(2):
        values = quantizer.values[k, 32:64]
        assert np.array_equal(np.searchsorted(edges[k], values, side="right"), np.arange(32))


def test_numbers_that_are_all_the_same_are_exact():
    quantizer = ScalarQuantizer.fit(np.full((50, 1), 3.0), 4)
    assert (quantizer.values[0, 1:] == 3).all() and (quantizer.errors == 0).all()


def test_the_largest_gain_comes_first_and_groups_stay_together():
    gains = [[((0,), 5.0), ((0,), 1.0)], [((1, 2), 8.0)], [((3,), 4.5)]]
    assert order(gains, 5).tolist() == [0, 3, 1, 2, 0]
    assert order(gains, 99).tolist() == [0, 3, 1, 2, 0]  # there is no more to say


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=2), st.integers(0, 4))
def test_reading_a_prefix_gives_the_node_that_writing_went_through(quantizer, numbers, n):
    packing = BitPacking(quantizer, np.array([0, 1, 0, 0, 1, 0, 1, 1, 0, -1, 1, -1]), 4, 3)
    cells = packing.cells(np.array([numbers]))
    ids = packing.pack(cells)
    assert ids.shape == (1, 4) and (ids >= 0).all() and (ids < 8).all()
    full, depths = packing.depths(4), packing.depths(n)
    nodes = (2**full + cells[0]) >> (full - depths)
    assert packing.unpack(ids[:, :n])[0].tolist() == quantizer.values[np.arange(2), nodes].tolist()
    assert packing.unpack(ids)[0].tolist() == packing.values(cells)[0].tolist()


def test_many_chunks_find_the_cells_that_few_do(quantizer):
    packing = BitPacking(quantizer, np.array([0, 1] * 5), 2, 5)
    numbers = np.random.default_rng(1).normal(size=(40, 2))
    assert np.array_equal(packing.cells(numbers), np.concatenate([packing.cells(row[None]) for row in numbers]))


@given(
    st.integers(0, 11),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from([-1.0, 1.0]),
    st.floats(-1, 1).filter(lambda v: 0.1 < abs(v) < 0.9),
)
def test_one_event_is_found_again(when, duration, level, start):
    event = np.array([[[when, level, duration]]])
    change = changes(event, np.array([start]), 12)
    assume(np.square(change).sum() > MIN_GAIN)  # one that hardly begins before the end is not worth an event
    found = fit_events(change, np.array([start]), np.array([-1.0, 1.0]), 1, all_ramps(12, (1.0, 4.0)))
    assert changes(found, np.array([start]), 12) == pytest.approx(change, abs=1e-9)


def test_a_gripper_that_opens_and_closes_is_two_events_in_their_order():
    event = np.array([[[3, 1.0, 2.0], [22, -1.0, 4.0]]])
    change = changes(event, np.array([-1.0]), 30)
    found = fit_events(change, np.array([-1.0]), np.array([-1.0, 1.0]), 4, all_ramps(30, (1.0, 2.0, 4.0)))
    assert changes(found, np.array([-1.0]), 30) == pytest.approx(change, abs=1e-9)
    assert found[0, :2] == pytest.approx(event[0]) and (found[0, 2:, 0] == 30).all()


def test_an_event_only_moves_its_own_channel():
    events = Events((1,), np.array([[-1.0, 1.0]]), (2.0,), 1, 10, 3)
    signal = events.signal(np.array([[4.0, 1.0, 2.0]]), np.array([[0.3, -1.0, 0.2]]))
    assert (signal[0, :, [0, 2]] == 0).all()
    assert signal[0, :, 1].tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_levels_are_where_a_signal_rests():
    square = np.repeat([[0.0, 1.0, 0.0, 0.5], [1.0, 0.5, 1.0, 0.0]], 10, axis=1)
    assert resting_levels(square) == pytest.approx([0, 0.5, 1])
    assert resting_levels(np.cumsum(np.full((2, 40), 0.1), axis=1)) is None


@pytest.mark.parametrize("relative", [True, False])
def test_all_numbers_of_a_stroke_are_its_least_squares_curve(relative):
    """Without rounding, decoding is the projection onto the curves: what it leaves is orthogonal to them."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 2)) * relative
    paths = np.cumsum(rng.normal(size=(40, 15, 2)), axis=1)
    spline = SplinePCA.fit(paths, start, CodecConfig(length=15, control_points=6, relative=relative))
    drawn = spline.curve(spline.numbers(paths, start), start) - start[:, None]
    left = np.einsum("tm,ntd->nmd", spline.basis[:, 1:], paths - drawn)
    assert np.abs(left).max() < 1e-8 < np.abs(paths - drawn).max()


def test_numbers_that_no_data_has_still_give_a_bounded_curve_of_bounded_rate():
    """The curve lies in its control points' hull; its rate in that of degree x step / gap between knots."""
    rng = np.random.default_rng(0)
    start = rng.uniform(-1, 1, size=(50, 2))
    paths = np.cumsum(rng.normal(size=(50, 15, 2)), axis=1)
    spline = SplinePCA.fit(paths, start, CodecConfig(length=15, control_points=6))
    wild = spline.curve(1000 * rng.normal(size=(50, spline.analysis.shape[0])), start, -np.ones(2), np.full(2, 0.9))
    assert wild.min() >= -1 - 1e-9 and wild.max() <= max(0.9, start.max()) + 1e-9
    assert wild.min() < -0.9 and wild.max() > 0.8  # they were at the bounds
    k = knots(6, 3)
    fastest = (3 * spline.max_step / (k[4:9] - k[1:6])[:, None]).max(0)
    in_data = np.abs(differences(6, 3) @ fit_from(0 * start, paths, 6, 3)).max((0, 1))
    np.testing.assert_allclose(fastest, in_data)
    free = spline.curve(1000 * rng.normal(size=(50, spline.analysis.shape[0])), start)
    steps = np.abs(np.diff(np.concatenate([start[:, None], free], axis=1), axis=1)).max((0, 1))
    assert (steps <= fastest / 15 + 1e-9).all() and (steps > 0.5 * fastest / 15).all()
