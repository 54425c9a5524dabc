"""The codec's laws: ordered, total, bounded, continuous across chunks, the same after saving, and events are events."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.numpy import save as arrays_as_bytes

from policies.codec import Codec, CodecConfig
from policies.codec.fitting import windows_of
from policies.storage.folders import FolderError, write_folder

LENGTH, CHANNELS, GRIP = 20, 3, 2
CONFIG = CodecConfig(length=LENGTH, ids=6, bits=8)


def movements(seed: int, count: int) -> list[np.ndarray]:
    """Two smooth channels in units of their own, and one that opens and closes in three steps."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        time = np.arange(120)
        waves = rng.normal(size=(2, 4)) @ np.sin(np.outer(np.arange(1, 5), time / 25) + rng.uniform(0, 6, (4, 1)))
        beats = np.cumsum(rng.integers(25, 45, 4))
        held = sum((-1) ** i * np.clip((time - beat) / 3, 0, 1) for i, beat in enumerate(beats))
        episodes.append(np.stack([30 * waves[0], 2 + 0.1 * waves[1], 100 * held], axis=1))
    return episodes


@pytest.fixture(scope="module")
def codec():
    return Codec.fit(movements(0, 30), CONFIG)


@pytest.fixture(scope="module")
def held_out():
    windows = windows_of(movements(1, 10), LENGTH + 1, 7)
    return windows[:, 1:], windows[:, 0]


def scaled_error(codec, chunk, truth):
    return float(np.sqrt(np.mean(np.square((chunk - truth) / codec.scaling.half))))


def strings(count=CONFIG.ids, vocabulary=2**CONFIG.bits):
    return st.lists(st.integers(0, vocabulary - 1), min_size=0, max_size=count).map(
        lambda v: np.array(v, dtype=np.int64)
    )


def test_held_out_chunks_come_back(codec, held_out):
    chunks, start = held_out
    assert scaled_error(codec, codec.decode(codec.encode(chunks, start), start), chunks) < 0.05


def test_each_further_id_lowers_the_error(codec, held_out):
    chunks, start = held_out
    ids = codec.encode(chunks, start)
    errors = [scaled_error(codec, codec.decode(ids[:, :n], start), chunks) for n in range(CONFIG.ids + 1)]
    assert all(after < before for before, after in pairwise(errors)), errors
    assert errors[1] < 0.7 * errors[0]


@settings(max_examples=60)
@given(ids=strings(), where=st.tuples(*[st.floats(-1, 1)] * CHANNELS))
def test_any_string_decodes_within_bounds_and_no_faster_than_the_data(codec, ids, where):
    start = codec.scaling.unscale(np.array(where) * codec.config.margin)
    scaled = codec.scaling.scale(np.concatenate([start[None], codec.decode(ids, start)]).astype(float))
    assert scaled.shape == (LENGTH + 1, CHANNELS)
    assert np.abs(scaled).max() <= codec.config.margin + 1e-5
    fastest = np.abs(np.diff(windows_scaled(codec), axis=1)).max((0, 1))
    assert (np.abs(np.diff(scaled, axis=0)).max(0)[:GRIP] <= 2 * fastest[:GRIP] + 1e-5).all()


def windows_scaled(codec):
    return codec.scaling.scale(windows_of(movements(0, 30), LENGTH + 1, 3))


@settings(max_examples=30)
@given(first=strings(), second=strings())
def test_chunks_join_for_any_ids(codec, first, second):
    """The second curve leaves where the first arrived: the step between them is one of the second curve's own."""
    start = codec.scaling.middle
    before = codec.decode(first, start)
    after = codec.scaling.scale(codec.decode(second, before[-1]).astype(float))
    across = np.abs(after[0] - codec.scaling.scale(before[-1].astype(float)))[:GRIP]
    fastest = np.abs(np.diff(windows_scaled(codec), axis=1)).max((0, 1))[:GRIP]
    assert (across <= 2 * fastest + 1e-5).all()


def test_limits_are_kept_by_100_000_strings(held_out):
    low, high = np.array([-20.0, 1.9, -5.0]), np.array([20.0, 2.1, 105.0])
    codec = Codec.fit(movements(0, 10), CONFIG, limits=(low, high))
    ids = np.random.default_rng(0).integers(codec.vocabulary, size=(100_000, CONFIG.ids))
    chunks = codec.decode(ids, np.tile((low + high) / 2, (100_000, 1)))
    assert (chunks >= low - 1e-4).all() and (chunks <= high + 1e-4).all()


def test_what_switches_is_found_and_keeps_its_corners(codec, held_out):
    chunks, start = held_out
    assert codec.switching == (GRIP,)
    curves = Codec.fit(movements(0, 30), CodecConfig(length=LENGTH, ids=6, bits=8, events=False))
    assert curves.switching == ()
    errors = [
        np.abs(code.decode(code.encode(chunks, start), start) - chunks)[:, :, GRIP].mean() for code in (codec, curves)
    ]
    assert errors[0] < errors[1] / 3


def test_the_user_can_name_what_switches(codec, tmp_path):
    for switching in ([GRIP], np.array([GRIP])):
        named = Codec.fit(movements(0, 10), CONFIG, switching=switching)
        assert named.switching == (GRIP,)
        named.save(tmp_path / type(switching).__name__)
    with pytest.raises(ValueError, match="switching: channel 0 does not rest on two levels or more"):
        Codec.fit(movements(0, 10), CONFIG, switching=[0])


def test_a_batch_is_its_chunks(codec, held_out):
    chunks, start = held_out[0][:12].reshape(3, 4, LENGTH, CHANNELS), held_out[1][:12].reshape(3, 4, CHANNELS)
    ids = codec.encode(chunks, start)
    assert ids.shape == (3, 4, CONFIG.ids) and ids.dtype == np.int64
    decoded = codec.decode(ids, start)
    for i in np.ndindex(3, 4):
        assert np.array_equal(codec.encode(chunks[i], start[i]), ids[i])
        assert codec.decode(ids[i], start[i]) == pytest.approx(decoded[i], abs=1e-4)
    none = codec.encode(chunks[:0], start[:0])
    assert none.shape == (0, 4, CONFIG.ids) and codec.decode(none, start[:0]).shape == (0, 4, LENGTH, CHANNELS)


def test_tensors_in_tensors_out(codec, held_out):
    chunk, start = (torch.from_numpy(a[0]).float() for a in held_out)
    ids = codec.encode(chunk, start)
    assert isinstance(ids, torch.Tensor) and ids.dtype == torch.int64
    decoded = codec.decode(ids, start)
    assert isinstance(decoded, torch.Tensor) and decoded.dtype == torch.float32
    assert np.array_equal(decoded.numpy(), codec.decode(ids.numpy(), start.numpy()))
    half = [t.bfloat16() for t in (chunk, start)]  # NumPy has no such numbers
    assert torch.equal(codec.encode(*half), codec.encode(*(t.float() for t in half)))


def test_a_codec_that_is_not_relative_needs_no_start(held_out):
    codec = Codec.fit(movements(0, 30), CodecConfig(length=LENGTH, ids=8, bits=8, relative=False))
    ids = codec.encode(held_out[0])
    assert scaled_error(codec, codec.decode(ids), held_out[0]) < 0.08


def test_encoding_what_was_decoded_hardly_changes_it(codec, held_out):
    chunks, start = held_out
    once = codec.decode(codec.encode(chunks, start), start)
    twice = codec.decode(codec.encode(once, start), start)
    assert scaled_error(codec, twice, once) < 0.5 * scaled_error(codec, once, chunks)


def test_it_is_the_same_after_saving(codec, held_out, tmp_path):
    chunks, start = held_out
    codec.save(tmp_path / "codec")
    again = Codec.load(tmp_path / "codec")
    ids = codec.encode(chunks, start)
    assert again.config == codec.config and np.array_equal(again.encode(chunks, start), ids)
    assert np.array_equal(again.decode(ids, start), codec.decode(ids, start))


@pytest.mark.parametrize("name", ["config.json", "codec.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{}")])
def test_a_damaged_folder_is_named(codec, tmp_path, name, damage):
    codec.save(tmp_path / "codec")
    damage(tmp_path / "codec" / name)
    with pytest.raises(FolderError, match=name):
        Codec.load(tmp_path / "codec")


def test_saving_takes_the_place_of_a_codec_or_of_nothing(codec, tmp_path):
    """A folder with anything else in it is not replaced: what is in it would be lost."""
    (tmp_path / "empty").mkdir()
    codec.save(tmp_path / "empty")
    codec.save(tmp_path / "empty")
    assert Codec.load(tmp_path / "empty").config == codec.config
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty" / "thesis.txt").write_text("mine")
    for name, kept in (("mine", "mine/config.json"), ("file", "file"), ("empty", "empty/thesis.txt"), (".", "file")):
        with pytest.raises(FileExistsError, match="already there, and no codec; give a new folder"):
            codec.save(tmp_path / name)
        assert (tmp_path / kept).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "mine"]


@pytest.mark.parametrize("damage", ["settings", "length", "numbers"])
def test_a_codec_whose_parts_do_not_fit_is_refused_where_it_is_loaded(codec, tmp_path, damage):
    """Each file is whole by itself, and so is the manifest."""
    codec.save(tmp_path / "codec")
    about = json.loads((tmp_path / "codec" / "config.json").read_text())
    arrays = load_file(tmp_path / "codec" / "codec.safetensors")
    about["codec"] |= {"settings": {"ids": 6.0}, "length": {"length": 40}}.get(damage, {})
    if damage == "numbers":
        arrays["scaling.middle"] = np.full_like(arrays["scaling.middle"], np.nan)
    files = {"config.json": json.dumps(about).encode(), "codec.safetensors": arrays_as_bytes(arrays)}
    write_folder(tmp_path / "x", files, {})
    with pytest.raises(FolderError, match="x") as caught:
        Codec.load(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_one_line(codec, held_out):
    chunk, start = held_out[0][0], held_out[1][0]
    ids = codec.encode(chunk, start)
    broken = chunk.copy()
    broken[3, 1] = np.nan
    for call, names in (
        (lambda: codec.encode(chunk[1:], start), "chunk"),
        (lambda: codec.encode(chunk, start[:2]), "start"),
        (lambda: codec.encode(broken, start), "chunk"),
        (lambda: codec.encode(chunk, broken[3]), "start"),
        (lambda: codec.decode(ids), "start"),
        (lambda: codec.decode(np.append(ids, 0), start), "ids"),
        (lambda: codec.decode(ids + 256, start), "ids"),
        (lambda: codec.decode(ids + 0.5, start), "ids"),
        (lambda: codec.decode(np.array(3), start), "ids"),
        (lambda: Codec.fit([], CONFIG), "episodes"),
        (lambda: Codec.fit([np.zeros((LENGTH, 3))], CONFIG), "length=20"),
        (lambda: Codec.fit([np.full((50, 3), np.inf)], CONFIG), "episode 0"),
        (lambda: Codec.fit(movements(0, 2), CONFIG, limits=([0, 0, 0], [0, 1, 1])), "limits"),
        (lambda: Codec.fit(movements(0, 2), CONFIG, limits=(0, 1)), "limits"),
        (lambda: Codec.fit(movements(0, 2), CONFIG, switching=[3]), r"switching=\[3\]"),
        (lambda: Codec.fit(movements(0, 2), CONFIG, stride=0), "stride=0"),
        (lambda: CodecConfig(control_points=3), "control_points=3"),
        (lambda: CodecConfig(length=3), "degree=3"),
    ):
        with pytest.raises(ValueError, match=f"^{names}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_channel_that_never_moves_stays():
    episodes = [np.concatenate([e, np.full((len(e), 1), 7.0)], axis=1) for e in movements(0, 6)]
    codec = Codec.fit(episodes, CONFIG)
    window = episodes[0][: LENGTH + 1]
    assert codec.decode(codec.encode(window[1:], window[0]), window[0])[:, 3] == pytest.approx(7, abs=1e-6)
