"""The codec's laws: ordered, total, bounded, continuous across chunks; and those of its cells, bits and curves.

And of its command, semagram-tokens. That a saved codec is whole, and the same, is in test_folders.py.
"""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.numpy import save as arrays_as_bytes

from configs import codec as command
from configs.commands import tokens as main
from policies.codec import Codec, CodecConfig
from policies.codec.codec import MARGIN, windows_of
from policies.codec.quantizer import BitPacking, ScalarQuantizer, order
from policies.glyphs.ink import draw
from policies.storage.folders import FolderError, write_folder
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop, to_plain
from robot.datasets import Recording

LENGTH, CHANNELS = 20, 3
CONFIG = CodecConfig(length=LENGTH, ids=6, bits=8)


def movements(seed: int, count: int) -> list[np.ndarray]:
    """Two smooth channels in units of their own, and one that opens and closes in twelve steps."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        time = np.arange(120)
        waves = rng.normal(size=(2, 4)) @ np.sin(np.outer(np.arange(1, 5), time / 25) + rng.uniform(0, 6, (4, 1)))
        beats = np.cumsum(rng.integers(25, 45, 4))
        held = sum((-1) ** i * np.clip((time - beat) / 12, 0, 1) for i, beat in enumerate(beats))
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


@pytest.mark.parametrize(
    ("keys", "errors"),
    [
        ({"length": 20, "ids": 6}, [0.441147, 0.127537, 0.042758, 0.02743]),
        ({"length": 40, "ids": 8}, [0.485901, 0.23195, 0.070932, 0.035287]),
    ],
)
def test_what_was_measured_once_is_measured_again(keys, errors):
    """On held-out chunks: the error after none, one, half and all of the ids."""
    codec = Codec.fit(movements(0, 12), CodecConfig(**{"bits": 8} | keys))
    windows = windows_of(movements(1, 10), codec.config.length + 1, 7)
    start, chunks = windows[:, 0], windows[:, 1:]
    ids = codec.encode(chunks, start)
    found = [codec.decode(ids[:, :n], start) for n in (0, 1, codec.config.ids // 2, codec.config.ids)]
    assert [scaled_error(codec, chunk, chunks) for chunk in found] == pytest.approx(errors, rel=2e-3)


@pytest.fixture(scope="module")
def fastest(codec):
    """The largest steps of the data."""
    return np.abs(np.diff(codec.scaling.scale(windows_of(movements(0, 30), LENGTH + 1, 3)), axis=1)).max((0, 1))


@settings(max_examples=60)
@given(first=strings(), second=strings(), where=st.tuples(*[st.floats(-1, 1)] * CHANNELS))
def test_any_string_decodes_within_bounds_no_faster_than_the_data_and_joins_the_one_before(
    codec, fastest, first, second, where
):
    start = codec.scaling.unscale(np.array(where) * MARGIN)
    before = codec.decode(first, start)
    whole = np.concatenate([start[None], before, codec.decode(second, before[-1])])
    scaled = codec.scaling.scale(whole.astype(float))
    assert scaled.shape == (2 * LENGTH + 1, CHANNELS)
    assert np.abs(scaled).max() <= MARGIN + 1e-5
    assert (np.abs(np.diff(scaled, axis=0)).max(0) <= 2 * fastest + 1e-5).all()


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
        with pytest.raises(FileExistsError, match="already there; give a new folder"):
            codec.save(tmp_path / name)
        assert (tmp_path / kept).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "mine"]


@pytest.mark.parametrize("damage", ["none", "kind", "format", "settings", "arrays"])
def test_what_is_no_codec_is_refused_in_one_line(codec, tmp_path, damage):
    """Each file is whole by itself, and so is the manifest."""
    codec.save(tmp_path / "codec")
    about = json.loads((tmp_path / "codec" / "config.json").read_text())
    arrays = load_file(tmp_path / "codec" / "codec.safetensors")
    about["codec"] |= {"ids": 6.0} if damage == "settings" else {}
    about["format"] -= damage == "format"
    about["type"] = "semagram" if damage == "kind" else about["type"]
    if damage == "arrays":
        del arrays["scaling.middle"]
    files = {"config.json": json.dumps(about).encode(), "codec.safetensors": arrays_as_bytes(arrays)}
    write_folder(tmp_path / "x", files, {})
    if damage == "none":
        assert Codec.load(tmp_path / "x").config == codec.config
        return
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
        (lambda: codec.decode(ids, start[:2]), "start"),
        (lambda: codec.decode(np.append(ids, 0), start), "ids"),
        (lambda: codec.decode(np.full_like(ids, 256), start), "ids"),
        (lambda: codec.decode(ids + 0.5, start), "ids"),
        (lambda: codec.decode(np.array(3), start), "ids"),
        (lambda: Codec.fit([], CONFIG), "episodes"),
        (lambda: Codec.fit([np.zeros((LENGTH, 3))], CONFIG), "length=20"),
        (lambda: Codec.fit([np.full((50, 3), np.inf)], CONFIG), "episode 0"),
        (lambda: CodecConfig(length=4), "length=4"),
    ):
        with pytest.raises(ValueError, match=f"^{names}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_channel_that_never_moves_stays():
    episodes = [np.concatenate([e, np.full((len(e), 1), 7.0)], axis=1) for e in movements(0, 6)]
    codec = Codec.fit(episodes, CONFIG)
    window = episodes[0][: LENGTH + 1]
    assert codec.decode(codec.encode(window[1:], window[0]), window[0])[:, 3] == pytest.approx(7, abs=1e-6)


@pytest.fixture(scope="module")
def quantizer():
    rng = np.random.default_rng(0)
    return ScalarQuantizer.fit(np.stack([rng.normal(size=2000), rng.exponential(size=2000)], axis=1), 6)


def test_one_bit_is_the_best_two_level_quantiser(quantizer):
    """For a normal number the two best levels are -+sqrt(2 / pi), and leave 1 - 2 / pi of the variance (Max 1960)."""
    assert quantizer.splits[0, 1] == pytest.approx(0, abs=0.15)
    assert quantizer.values[0, 2:4] == pytest.approx([-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)], abs=0.12)
    assert quantizer.errors[0, 1] / quantizer.errors[0, 0] == pytest.approx(1 - 2 / np.pi, abs=0.02)


def test_the_largest_gain_comes_first():
    errors = np.array([[9.0, 4.0, 3.0], [8.0, 0.0, 0.0], [5.0, 0.5, 0.0]])
    assert order(errors, 4).tolist() == [1, 0, 2, 0]
    assert sorted(order(errors, 99).tolist()) == [0, 0, 1, 1, 2, 2]  # there is no more to say


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=2), st.integers(0, 4))
def test_reading_a_prefix_gives_the_node_that_writing_went_through(quantizer, numbers, n):
    packing = BitPacking(quantizer, np.array([0, 1, 0, 0, 1, 0, 1, 1, 0, -1, 1, -1]), 4, 3)
    cells = packing.cells(np.array([numbers]))
    ids = packing.pack(cells)
    assert ids.shape == (1, 4) and (ids >= 0).all() and (ids < 8).all()
    full, depths = packing.depths(4), packing.depths(n)
    nodes = (2**full + cells[0]) >> (full - depths)
    assert packing.unpack(ids[:, :n])[0].tolist() == quantizer.values[np.arange(2), nodes].tolist()


# semagram-tokens: each verb ends with one JSON line, a mistake with one line.


@pytest.fixture
def tokens(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder on episodes that need no LeRobot to be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        command.datasets, "read", lambda folder: Recording(movements(0, 12), ("shoulder", "elbow", "hand"), 25.0)
    )

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["semagram-tokens", *words])
        main()
        out, _ = capsys.readouterr()
        assert len(out.splitlines()) == 1
        return json.loads(out)

    return run


def test_fit_leaves_a_codec_that_codes_actions_in_their_own_units(tokens):
    result = tokens("fit", "dataset=arm", "ids=6", "seconds=0.8", "out=codec")
    codec = Codec.load(result["codec"])
    assert codec.config.length == 20 and result["string_bits"] == 72
    windows = windows_of(movements(0, 12), 21, 5)
    found = codec.decode(codec.encode(windows[:, 1:], windows[:, 0]), windows[:, 0])
    assert result["rmse"] == pytest.approx(scaled_error(codec, found, windows[:, 1:]), abs=1e-5)
    assert result["rmse"] < 0.2


def test_a_file_draws_what_its_sentence_draws(tokens, tmp_path):
    move = Move(np.array([[0.1, -0.2], [0.3, 0.9]]), 0.4, 1, np.full((2, 2), 0.1))
    sentence = (Grip(1.0), move, Grip(0.0, 0.1), move, Look("cup"), Ask("this?"), Stop())
    (tmp_path / "plan.json").write_text(json.dumps(to_plain(sentence)))
    result = tokens("draw", "plan=plan.json", "hydra.run.dir=out")
    draw(sentence, tmp_path / "same.svg")
    assert (tmp_path / "out" / "glyph.svg").read_text() == (tmp_path / "same.svg").read_text()
    assert result["sentence"].startswith("grip(open) · move(0.4 s)") and (tmp_path / "out" / "glyph.png").stat().st_size


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), "semagram-tokens"),
        (("fit",), "dataset="),
        (("draw",), "plan="),
        (("fit", "dataset=arm", "plan=plan.json"), "plan=plan.json"),
        (("draw", "dataset=arm", "plan=plan.json"), "dataset=arm: not of draw"),
        (("draw", "plan=missing.json"), "plan=missing.json"),
        (("fit", "dataset=arm", "seconds=0.01"), "seconds=0.01"),
        (("fit", "dataset=arm", "seconds=60"), "seconds=60"),
        (("fit", "dataset=arm", "out=.."), "..: already there"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_nothing_is_written(tokens, capsys, tmp_path, words, names):
    with pytest.raises(SystemExit) as stop:
        tokens(*words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and names in err, err
    assert not list(tmp_path.iterdir())
