"""Laws of the commands' glyphs: a file of a sentence draws what the sentence draws; a codec's says its chunks."""

import json

import numpy as np
import pytest

from configs.codec.glyphs import draw_file, spoken
from policies.codec import Codec, CodecConfig
from policies.glyphs.ink import draw
from policies.tokens.notation import to_plain
from policies.tokens.splines import design
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop

RATE_HZ = 25.0


@pytest.fixture(scope="module")
def episodes():
    """Smooth motions of two joints, and a hand that closes and opens; scaled."""
    draw_, result = np.random.default_rng(0), []
    for _ in range(12):
        at = np.arange(120) / 120
        joints = [0.6 * np.sin(2 * np.pi * (draw_.uniform(0.5, 1.5) * at + draw_.uniform())) for _ in range(2)]
        shut, loose = draw_.integers(20, 50), draw_.integers(65, 95)
        hand = np.interp(np.arange(120), [shut, shut + 5, loose, loose + 5], [0.9, -0.9, -0.9, 0.9])
        result.append(np.stack([*joints, hand], -1))
    return result


@pytest.fixture(scope="module")
def codec(episodes):
    """Of chunks of one second."""
    return Codec.fit(episodes, CodecConfig(length=25))


def test_a_codecs_sentence_says_its_chunks(codec, episodes):
    """Each motion is the decoded chunk, where it did not have to be cut to the range; the hand closes and opens."""
    assert codec.switching == (2,)
    tokens = spoken(codec, episodes, RATE_HZ)
    moves, grips = ([t for t in tokens if isinstance(t, kind)] for kind in (Move, Grip))
    assert len(moves) == 4 and len(moves) + len(grips) == len(tokens)
    start = episodes[0][0]
    weights = design(np.arange(1, 26) / 25, codec.config.control_points, codec.config.degree)
    for i, move in enumerate(moves):
        chunk = codec.decode(codec.encode(episodes[0][1 + 25 * i : 26 + 25 * i], start), start)
        assert move.seconds == 1.0 and move.points.shape[1] == 2 and (move.spread >= 0).all()
        assert np.allclose(weights @ move.points, chunk[:, :2], atol=1e-5)
        start = chunk[-1].astype(float)
    assert [round(grip.level) for grip in grips] == [0, 1]
    hand = episodes[0][1:101, 2]
    times, elapsed = [], 0.0
    for token in tokens:
        if isinstance(token, Grip):
            times.append((elapsed + token.after) * RATE_HZ)
        else:
            elapsed += token.seconds
    assert np.allclose(times, [np.argmax(hand < 0.85), np.argmax((hand > -0.85) & (np.arange(100) > 60))], atol=2)


def test_the_spread_is_what_the_ids_leave_unsaid(episodes):
    coarse, fine = (spoken(Codec.fit(episodes, CodecConfig(length=25, ids=n)), episodes, RATE_HZ) for n in (2, 16))
    wide, narrow = (np.mean([t.spread for t in tokens if isinstance(t, Move)]) for tokens in (coarse, fine))
    assert wide > 2 * narrow > 0


def test_a_file_draws_what_its_sentence_draws(tmp_path):
    move = Move(np.array([[0.1, -0.2], [0.3, 0.9]]), 0.4, 1, np.full((2, 2), 0.1))
    sentence = (Grip(1.0), move, Grip(0.0, 0.1), move, Look("cup"), Ask("this?"), Stop())
    (tmp_path / "plan.json").write_text(json.dumps(to_plain(sentence)))
    said = draw_file(tmp_path / "plan.json", tmp_path / "out")
    draw(sentence, tmp_path / "same.svg")
    assert (tmp_path / "out" / "glyph.svg").read_text() == (tmp_path / "same.svg").read_text()
    assert said["sentence"].startswith("grip(open) · move(0.4 s)")
    assert (tmp_path / "out" / "glyph.png").stat().st_size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('[{"kind": "jump"}]', "one of move, grip"),
        ('[{"kind": "stop"}, {"kind": "stop"}]', "stop"),
    ],
)
def test_a_file_that_is_no_sentence_is_refused_by_its_name(tmp_path, content, reason):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as refused:
        draw_file(path, tmp_path / "out")
    assert str(refused.value).startswith(f"sentence={path}: ")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"missing\.json: No such file"):
        draw_file(tmp_path / "missing.json", tmp_path / "out")
