"""semagram-tokens: each verb ends with one JSON line, a mistake with one line; what it draws."""

import json
import sys

import numpy as np
import pytest

from configs import codec as codecs
from configs.commands import tokens as main
from policies.codec import Codec
from policies.glyphs.ink import draw
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


def test_fit_leaves_a_codec_that_codes_actions_in_their_own_units(tokens, episodes):
    result = tokens("fit", "dataset=arm", "ids=6", "seconds=0.8", "out=codec")
    codec = Codec.load(result["codec"])
    assert codec.config.length == 20 and result["string_bits"] == 72 and result["switching"] == ["hand"]
    chunk, start = episodes[0][1:21], episodes[0][0]
    assert np.abs(codec.decode(codec.encode(chunk, start), start) - chunk).max() < 0.2


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
        (("fit", "dataset=arm", "out=.."), "..: already there, and no codec"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_nothing_is_written(tokens, capsys, tmp_path, words, names):
    with pytest.raises(SystemExit) as stop:
        tokens(*words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and names in err, err
    assert not list(tmp_path.iterdir())
