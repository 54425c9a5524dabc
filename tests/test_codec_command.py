"""semagram-tokens: each verb ends with one JSON line, a mistake with one line; what it draws."""

import json
import sys

import numpy as np
import pytest

from configs import codec as codecs
from configs.codec import decoded_sentence
from configs.commands import tokens as main
from configs.schema import TokensConfig
from policies.codec import Codec, CodecConfig
from policies.glyphs.ink import draw
from policies.tokens.curves import design
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop, to_plain
from robot.datasets import Recording

NAMES, HZ = ("shoulder", "elbow", "hand"), 25.0


@pytest.fixture(scope="module")
def episodes():
    """Smooth motions of two joints, and a hand that closes and opens."""
    rng, result = np.random.default_rng(0), []
    for _ in range(12):
        at = np.arange(120) / 120
        joints = [0.6 * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * at + rng.uniform())) for _ in range(2)]
        shut, loose = rng.integers(20, 50), rng.integers(65, 95)
        hand = np.interp(np.arange(120), [shut, shut + 5, loose, loose + 5], [0.9, -0.9, -0.9, 0.9])
        result.append(np.stack([*joints, hand], -1))
    return result


@pytest.fixture
def tokens(monkeypatch, capsys, tmp_path, episodes):
    """Run the command in an empty folder on episodes that need no LeRobot to be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codecs.datasets, "read", lambda folder: Recording(episodes, NAMES, HZ))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["semagram-tokens", *words])
        main()
        out, _ = capsys.readouterr()
        assert len(out.splitlines()) == 1
        return json.loads(out)

    return run


def test_held_out_episodes_are_others_and_scaled_alike_also_beyond_the_range(episodes):
    fitted, held_out = codecs.split(episodes, TokensConfig(verb="draw", dataset="arm"))
    assert (len(fitted), len(held_out)) == (8, 4)
    found = []
    for scaled in (*fitted, *held_out):
        alike = [i for i, e in enumerate(episodes) if np.corrcoef(e[:, 0], scaled[:, 0])[0, 1] > 1 - 1e-9]
        found.append((*alike, *np.polyfit(episodes[alike[0]][:, 0], scaled[:, 0], 1)))
    assert sorted(row[0] for row in found) == list(range(12))
    np.testing.assert_allclose([row[1:] for row in found], [found[0][1:]] * 12, atol=1e-9)  # one line for all
    assert max(np.abs(scaled).max() for scaled in fitted) > 1  # nothing is cut off


def test_fit_leaves_a_codec_that_codes_actions_in_their_own_units(tokens, episodes):
    result = tokens("fit", "dataset=arm", "ids=6", "seconds=0.8", "out=codec")
    codec = Codec.load(result["codec"])
    assert codec.config.length == 20 and result["string_bits"] == 72 and result["switching"] == ["hand"]
    chunk, start = episodes[0][1:21], episodes[0][0]
    assert np.abs(codec.decode(codec.encode(chunk, start), start) - chunk).max() < 0.2


def test_draw_leaves_a_picture_and_a_glyph(tokens, tmp_path):
    result = tokens("draw", "dataset=arm")
    assert (tmp_path / result["figure"]).stat().st_size > 5000 and len(result["ids"]) == 8
    assert (tmp_path / result["glyph"]).read_text().startswith("<svg")


def test_a_file_draws_what_its_sentence_draws(tokens, tmp_path):
    move = Move(np.array([[0.1, -0.2], [0.3, 0.9]]), 0.4, 1, np.full((2, 2), 0.1))
    sentence = (Grip(1.0), move, Grip(0.0, 0.1), move, Look("cup"), Ask("this?"), Stop())
    (tmp_path / "plan.json").write_text(json.dumps(to_plain(sentence)))
    result = tokens("draw", "plan=plan.json", "hydra.run.dir=out")
    draw(sentence, tmp_path / "same.svg")
    assert (tmp_path / "out" / "glyph.svg").read_text() == (tmp_path / "same.svg").read_text()
    assert result["sentence"].startswith("grip(open) · move(0.4 s)") and (tmp_path / "out" / "glyph.png").stat().st_size


def test_a_codecs_sentence_is_its_decoded_chunks(episodes):
    """Each motion is the decoded chunk, where it did not have to be cut to the range; the hand closes and opens."""
    codec = Codec.fit(episodes, CodecConfig(length=25))
    assert codec.switching == (2,)
    tokens = decoded_sentence(codec, episodes, HZ)
    moves, grips = ([t for t in tokens if isinstance(t, kind)] for kind in (Move, Grip))
    assert len(moves) == 4 and len(moves) + len(grips) == len(tokens)
    start = episodes[0][0]
    weights = design(np.arange(1, 26) / 25, codec.config.curve_points, codec.config.degree)
    for i, move in enumerate(moves):
        chunk = codec.decode(codec.encode(episodes[0][1 + 25 * i : 26 + 25 * i], start), start)
        assert move.seconds == 1.0 and move.points.shape[1] == 2 and (move.std >= 0).all()
        assert np.allclose(weights @ move.points, chunk[:, :2], atol=1e-5)
        start = chunk[-1].astype(float)
    assert [round(grip.level) for grip in grips] == [0, 1]
    hand = episodes[0][1:101, 2]
    times, elapsed = [], 0.0
    for token in tokens:
        if isinstance(token, Grip):
            times.append((elapsed + token.after) * HZ)
        else:
            elapsed += token.seconds
    assert np.allclose(times, [np.argmax(hand < 0.85), np.argmax((hand > -0.85) & (np.arange(100) > 60))], atol=2)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), "semagram-tokens"),
        (("fit",), "dataset="),
        (("fit", "dataset=arm", "plan=plan.json"), "plan=plan.json"),
        (("draw", "dataset=arm", "plan=plan.json"), "dataset=, plan="),
        (("draw", "plan=missing.json"), "plan=missing.json"),
        (("fit", "dataset=arm", "seconds=0.01"), "seconds=0.01"),
        (("fit", "dataset=arm", "seconds=60"), "seconds=60"),
        (("draw", "dataset=arm", "seconds=75", "control_points=9"), "seconds=75 control_points=9"),
        (("fit", "dataset=arm", "out=.."), "..: already there, and no codec"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_nothing_is_written(tokens, capsys, tmp_path, words, names):
    with pytest.raises(SystemExit) as stop:
        tokens(*words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and names in err, err
    assert not list(tmp_path.iterdir())
