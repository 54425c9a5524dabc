"""Corners: the cheapest string for any signal; every string decodes; what jumps in every channel is found."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.codec import Codec, CodecConfig
from policies.codec.corners import Corners
from policies.codec.gestures import shared_levels
from policies.codec.tracing import MANNERS, Segments, progress
from policies.codec.training import windows_of

JUMP, LINE, EASE = range(len(MANNERS))
LENGTH, BOUND = 24, np.full(2, 1.3)
CONFIG = CodecConfig(length=LENGTH, ids=12, bits=10)


def drives(seed: int, count: int) -> list[np.ndarray]:
    """Two channels that jump to any level now and then, rest there or glide on: what a curve cannot follow."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        channels = []
        for _ in range(2):
            pieces, level = [], 0.0
            while sum(map(len, pieces)) < 120:
                level = rng.choice([-1.0, 1.0, rng.uniform(-1, 1)])
                slope = rng.choice([0.0, 0.0, rng.uniform(-0.05, 0.05)])
                pieces.append(np.clip(level + slope * np.arange(rng.integers(4, 16)), -1, 1))
            channels.append(np.concatenate(pieces)[:120])
        episodes.append(np.stack(channels, axis=1) * [1.0, 30.0])
    return episodes


@pytest.fixture(scope="module")
def codec():
    return Codec.fit(drives(0, 25), CONFIG)


@pytest.fixture(scope="module")
def held_out():
    windows = windows_of(drives(1, 8), LENGTH + 1, 7)
    return windows[:, 1:], windows[:, 0]


def error(codec, chunk, truth):
    return float(np.sqrt(np.mean(np.square((chunk - truth) / codec.scaling.half))))


def every_gesture(levels: tuple[float, ...], length: int, ids: int, worth: float) -> Corners:
    """All manners to all levels, in one channel."""
    manner, level = np.meshgrid(np.arange(len(MANNERS)), levels, indexing="ij")
    return Corners(np.zeros(manner.size, dtype=int), manner.ravel(), level.ravel(), length, 1, ids, worth)


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(-1, 1), st.sampled_from([0.001, 0.05, 0.3]))
def test_no_string_is_cheaper(signal, start, worth):
    """Against every string of corners at different steps: squared error, and the worth of each corner."""
    corners = every_gesture((-0.7, 0.8), 4, 4, worth)
    strings = [
        [corners.rest if g < 0 else g * 4 + t for t, g in enumerate(said)]
        for said in product(range(-1, len(corners.level)), repeat=4)
    ]
    said = np.array(strings)
    chunk, where = np.array(signal)[None, :, None], np.array([[start]])
    bound = np.full(1, np.inf)

    def cost(ids):
        read = corners.read(ids, np.repeat(where, len(ids), axis=0), -bound, bound)
        return ((read - chunk) ** 2).sum((1, 2)) + worth * (ids < corners.rest).sum(1)

    assert cost(corners.write(chunk, where))[0] == pytest.approx(cost(said).min(), abs=1e-9)


@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 2), st.floats(-1, 1), st.floats(-1, 1))
def test_a_segments_error_is_that_of_its_samples(i, reach, manner, a, b):
    signal = np.random.default_rng(i + 7 * reach).normal(size=(2, 12))
    way = a + (b - a) * progress(np.arange(1, reach + 1) / reach)[manner]
    there = np.full((2, 1), i + reach)
    got = Segments.of(signal).between(0 * there + i, there * 0 + a, there, there * 0 + b, 0 * there + manner)
    assert got[:, 0] == pytest.approx(((signal[:, i : i + reach] - way) ** 2).sum(1), abs=1e-9)


def test_a_bump_to_a_middle_level_and_back_is_two_corners():
    corners = every_gesture((-1.0, 0.3, 1.0), 30, 8, 0.01)
    signal = np.full((1, 30, 1), -1.0)
    signal[0, 8:13] = 0.3
    ids = corners.write(signal, np.array([[-1.0]]))
    assert corners.said(ids).tolist() == [2]
    assert corners.read(ids, np.array([[-1.0]]), -BOUND[:1], BOUND[:1]) == pytest.approx(signal)


def test_manners_differ_on_the_way_only():
    corners = every_gesture((1.0,), 4, 1, 0.01)
    read = corners.read(np.array([[m * 4 + 3] for m in (JUMP, LINE, EASE)]), np.zeros((3, 1)), -BOUND[:1], BOUND[:1])
    assert read[:, :, 0] == pytest.approx(np.array([[0, 0, 0, 1], [0.25, 0.5, 0.75, 1], [5 / 32, 0.5, 27 / 32, 1]]))


def test_of_two_corners_in_one_place_the_later_said_holds_and_rest_says_nothing():
    corners = every_gesture((-1.0, 1.0), 4, 4, 0.01)
    low, start = -BOUND[:1], np.zeros((1, 1))
    read = [corners.read(np.array([ids]), start, low, -low) for ids in ([1, 5], [5, 1], [5], [5, corners.rest])]
    assert (read[0] == read[2]).all() and (read[2] == read[3]).all() and not (read[1] == read[0]).all()


def test_corners_are_chosen_for_what_jumps_everywhere_and_curves_are_not(codec, held_out):
    chunks, start = held_out
    assert isinstance(codec.writing, Corners)
    curves = Codec.fit(drives(0, 25), CodecConfig(length=LENGTH, ids=12, bits=10, writing="curves"))
    errors = [error(code, code.decode(code.encode(chunks, start), start), chunks) for code in (codec, curves)]
    assert errors[0] < 0.08 and errors[0] < errors[1] / 2


def test_more_ids_say_more_and_the_most_telling_come_first(codec, held_out):
    chunks, start = held_out
    ids = codec.encode(chunks, start)
    errors = [error(codec, codec.decode(ids[:, :n], start), chunks) for n in range(CONFIG.ids + 1)]
    assert all(after <= before for before, after in pairwise(errors)), errors
    drops = -np.diff(np.square(errors))
    assert drops[: CONFIG.ids // 3].sum() > 0.5 * drops.sum()


def test_a_string_ends_where_there_is_no_more_to_say(codec, held_out):
    chunks, start = held_out
    ids = codec.encode(chunks, start)
    said = codec.said(ids)
    assert said.min() < said.max() <= CONFIG.ids
    for row, count, chunk, where in zip(ids[:20], said, chunks, start, strict=False):
        assert (codec.decode(row[:count], where) == codec.decode(row, where)).all()
        assert (codec.encode(chunk, where) == row).all()
    still = np.tile(start[0], (LENGTH, 1))
    assert codec.said(codec.encode(still, start[0])) == 0
    assert codec.decode(np.zeros(0, dtype=int), start[0]) == pytest.approx(still, abs=1e-5)


def test_a_string_has_no_more_ids_than_there_may_be(held_out):
    short = Codec.fit(drives(0, 8), CodecConfig(length=LENGTH, ids=3, bits=10, writing="corners"))
    ids = short.encode(*held_out)
    assert ids.shape[1] == 3 and short.said(ids).max() == 3


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**CONFIG.bits - 1), max_size=CONFIG.ids), st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_any_string_decodes_within_bounds(codec, ids, where):
    start = codec.scaling.unscale(np.array(where) * codec.config.margin)
    chunk = codec.decode(np.array(ids, dtype=np.int64), start)
    assert chunk.shape == (LENGTH, 2)
    assert np.abs(codec.scaling.scale(chunk.astype(float))).max() <= codec.config.margin + 1e-5
    narrow = codec.writing.read(np.array([ids], dtype=np.int64), np.array([where]), -0.3 * BOUND, 0.2 * BOUND)
    assert narrow.min() >= -0.39 - 1e-9 and narrow.max() <= 0.26 + 1e-9


def test_corners_are_the_same_after_saving(codec, held_out, tmp_path):
    codec.save(tmp_path / "codec")
    again = Codec.load(tmp_path / "codec")
    ids = codec.encode(*held_out)
    assert (again.encode(*held_out) == ids).all()
    assert (again.decode(ids, held_out[1]) == codec.decode(ids, held_out[1])).all()


def test_corners_without_a_start_decode_with_nothing_but_themselves(held_out):
    codec = Codec.fit(drives(0, 25), CodecConfig(length=LENGTH, ids=14, bits=10, relative=False, writing="corners"))
    assert error(codec, codec.decode(codec.encode(held_out[0])), held_out[0]) < 0.1


def test_levels_go_to_the_samples_that_vary_most():
    rng = np.random.default_rng(0)
    levels = shared_levels({(0, 0): np.repeat([-1.0, 1.0], 50), (1, 0): rng.uniform(-1, 1, 100)}, 10)
    assert levels[0, 0].tolist() == [-1, 1] and len(levels[1, 0]) == 8
    assert np.abs(np.diff(levels[1, 0])).max() < 0.5


def test_too_few_bits_are_refused_in_one_line():
    with pytest.raises(ValueError, match="bits=6: too few for corners of 2 channels in 24 steps"):
        Codec.fit(drives(0, 3), CodecConfig(length=LENGTH, bits=6, writing="corners"))
    assert not isinstance(Codec.fit(drives(0, 3), CodecConfig(length=LENGTH, bits=6)).writing, Corners)
    with pytest.raises(ValueError, match="writing=ink: one of auto, curves, corners"):
        CodecConfig(writing="ink")


@pytest.mark.parametrize(("bits", "channels"), [(6, 1), (7, 2)])
def test_with_few_bits_the_rarest_gestures_are_left_out_and_every_string_still_decodes(bits, channels):
    """Three manners in each channel would need more ids than there are."""
    config = CodecConfig(length=LENGTH, ids=12, bits=bits, writing="corners")
    episodes = [episode[:, :channels] for episode in drives(0, 25)]
    codec = Codec.fit(episodes, config)
    assert {*codec.writing.channel} == {*range(channels)}
    assert codec.writing.rest < codec.vocabulary
    windows = windows_of(episodes, LENGTH + 1, 7)
    decoded = codec.decode(codec.encode(windows[:, 1:], windows[:, 0]), windows[:, 0])
    held = windows[:, :1] - windows[:, 1:]
    assert error(codec, decoded, windows[:, 1:]) < error(codec, held, 0)


def test_what_never_turns_has_no_corners_and_comes_back():
    codec = Codec.fit([np.full((60, 2), 0.5)] * 3, CodecConfig(length=LENGTH, ids=12, bits=10, writing="corners"))
    chunk = np.full((LENGTH, 2), 0.5)
    ids = codec.encode(chunk, chunk[0])
    assert codec.said(ids) == 0
    np.testing.assert_allclose(codec.decode(ids, chunk[0]), chunk, atol=1e-6)
    assert np.isfinite(codec.decode(np.arange(12), chunk[0])).all()
