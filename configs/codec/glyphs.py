"""Glyphs for semagram-tokens: of a sentence in a JSON file, and of a demonstration as a codec decodes it."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from policies.codec import Codec
from policies.codec.training import windows_of
from policies.glyphs.ink import draw
from policies.tokens.notation import read_sentence
from policies.tokens.splines import design, ends
from policies.tokens.vocabulary import Grip, Move, Sentence, Token, text

CHUNKS = 4
"""Largest number of chunks of an episode that are drawn, so that a glyph stays readable."""
STILL = 0.01
"""A switching channel rests on a level while it moves less than this per step, as a share of its range in the data."""


def draw_file(path: Path, folder: Path) -> dict:
    """Draw the sentence of a JSON file.

    Raises ValueError naming the file and what is wrong in it, or OSError if the figures cannot be written.
    """
    return draw_both(read_sentence(path), folder)


def draw_both(sentence: Sentence, folder: Path) -> dict:
    """Write glyph.svg and glyph.png to `folder`; return the path of the former, and the sentence as one line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("glyph.svg", "glyph.png"):
        draw(sentence, folder / name)
    return {"glyph": str(folder / "glyph.svg"), "sentence": text(sentence)}


def spoken(codec: Codec, episodes: list[np.ndarray], rate_hz: float) -> Sentence:
    """Convert the beginning of the longest episode (steps, D; scaled), as the codec decodes it, to a sentence.

    Each chunk becomes a motion. Channels that switch become grips, 0 at the lowest value of the data and 1 at the
    highest. The motions' spread is the root mean square, over all episodes, of the codec's error in control points.
    """
    switching = list(codec.switching)
    smooth = [d for d in range(codec.channels) if d not in switching] or list(range(codec.channels))
    length, relative = codec.config.length, codec.config.relative
    windows = windows_of(episodes, length + 1, length)
    starts = windows[:, 0]
    left = windows[:, 1:] - codec.decode(codec.encode(windows[:, 1:], starts), starts if relative else None)
    unsaid = np.stack([_points(error[:, smooth], 0 * starts[0, smooth], codec) for error in left])
    spread = np.sqrt((unsaid**2).mean(0))
    low, high = (limit([limit(e, axis=0) for e in episodes], axis=0) for limit in (np.min, np.max))
    episode = max(episodes, key=len)
    start = episode[0]
    tokens: list[Token] = []
    for begin in range(1, min(len(episode) - length, CHUNKS * length) + 1, length):
        ids = codec.encode(episode[begin : begin + length], start)
        chunk = codec.decode(ids, start if relative else None).astype(float)
        for d in switching:
            levels = (np.append(start[d], chunk[:, d]) - low[d]) / max(high[d] - low[d], 1e-9)
            tokens += [Grip(level, step / rate_hz) for step, level in _switches(levels)]
        points = np.clip(_points(chunk[:, smooth], start[smooth], codec), -1, 1)
        tokens.append(Move(points, length / rate_hz, codec.config.degree, spread))
        start = chunk[-1]
    return tuple(tokens)


def _points(chunk: np.ndarray, start: np.ndarray, codec: Codec) -> np.ndarray:
    """Return the control points (K, D) of the least-squares curve from `start` (D,) through a chunk (T, D) after it."""
    weights = design(ends(len(chunk)), codec.config.control_points, codec.config.degree)
    rest = np.linalg.lstsq(weights[:, 1:], chunk - weights[:, :1] * start, rcond=None)[0]
    return np.concatenate([start[None], rest])


def _switches(levels: np.ndarray) -> list[tuple[int, float]]:
    """Return, for each time the levels (T + 1,) move, after how many steps and to which level within [0, 1]."""
    moving = np.concatenate([[False], np.abs(np.diff(levels)) > STILL, [False]])
    borders = np.flatnonzero(np.diff(moving.astype(int)))
    return [(int(a), round(float(np.clip(levels[b], 0, 1)), 3)) for a, b in pairwise(borders) if moving[a + 1]]
