"""Drawings for semagram-tokens: a chunk as its ids refine it, and glyphs of a plan file or of a decoded episode."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from policies.codec import Codec
from policies.codec.fitting import windows_of
from policies.glyphs.ink import draw
from policies.storage.folders import replace_file
from policies.tokens.curves import fit_from
from policies.tokens.vocabulary import Grip, Move, Sentence, Token, text

INK = "#1b1b3a"
CHUNKS = 4
"""Largest number of chunks of an episode that are drawn, so that a glyph stays readable."""
STILL = 0.01
"""A switching channel rests on a level while it moves less than this per step, as a share of its range in the data."""


def draw_glyph(sentence: Sentence, folder: Path) -> dict:
    """Write glyph.svg and glyph.png to `folder`; return the path of the former, and the sentence as one line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("glyph.svg", "glyph.png"):
        draw(sentence, folder / name)
    return {"glyph": str(folder / "glyph.svg"), "sentence": text(sentence)}


def draw_refinement(path: Path, codec: Codec, window: np.ndarray, ids: np.ndarray, names: tuple[str, ...]) -> None:
    """Plot a scaled chunk (`window`, its start first) channel by channel, with what prefixes of its ids decode to."""
    count = window.shape[1]
    figure = Figure(figsize=(6, 1.4 * count), dpi=150, layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)
    shown = sorted({1, 2, 4, codec.config.ids} & set(range(1, codec.config.ids + 1)))
    for channel, panel in enumerate(axes[:, 0]):
        panel.plot(window[1:, channel], color=INK, linewidth=2.5, alpha=0.25)
        for n in shown:
            shade = 0.25 + 0.75 * n / codec.config.ids
            panel.plot(codec.decode(ids[:n], window[0])[:, channel], color=INK, alpha=shade, linewidth=0.8)
        panel.set_ylabel(names[channel], rotation=0, ha="right")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_title(f"after {', '.join(map(str, shown))} of {codec.config.ids} ids; wide: the chunk")
    axes[-1, 0].set_xlabel("control step")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    replace_file(path, png.getvalue())


def decoded_sentence(codec: Codec, episodes: list[np.ndarray], rate_hz: float) -> Sentence:
    """Convert the beginning of the longest episode (steps, D; scaled), as the codec decodes it, to a sentence.

    Each chunk becomes a motion. Channels that switch become grips, 0 at the lowest value of the data and 1 at the
    highest. The motions' spread is the root mean square, over all episodes, of the codec's error in control points.
    """
    switching = list(codec.switching)
    smooth = [d for d in range(codec.channels) if d not in switching] or list(range(codec.channels))
    length, shape = codec.config.length, (codec.config.curve_points, codec.config.degree)
    windows = windows_of(episodes, length + 1, length)
    starts, chunks = windows[:, 0], windows[:, 1:]
    error = (chunks - codec.decode(codec.encode(chunks, starts), starts))[..., smooth]
    spread = np.sqrt((fit_from(0 * error[:, 0], error, *shape) ** 2).mean(0))
    low, high = (limit([limit(e, axis=0) for e in episodes], axis=0) for limit in (np.min, np.max))
    episode = max(episodes, key=len)
    start = episode[0]
    tokens: list[Token] = []
    for begin in range(1, min(len(episode) - length, CHUNKS * length) + 1, length):
        chunk = codec.decode(codec.encode(episode[begin : begin + length], start), start).astype(float)
        for d in switching:
            levels = (np.append(start[d], chunk[:, d]) - low[d]) / max(high[d] - low[d], 1e-9)
            tokens += [Grip(level, step / rate_hz) for step, level in _switches(levels)]
        points = np.clip(fit_from(start[smooth], chunk[:, smooth], *shape), -1, 1)
        tokens.append(Move(points, length / rate_hz, codec.config.degree, spread))
        start = chunk[-1]
    return tuple(tokens)


def _switches(levels: np.ndarray) -> list[tuple[int, float]]:
    """Return, for each time the levels (T + 1,) move, after how many steps and to which level within [0, 1]."""
    moving = np.concatenate([[False], np.abs(np.diff(levels)) > STILL, [False]])
    borders = np.flatnonzero(np.diff(moving.astype(int)))
    return [(int(a), round(float(np.clip(levels[b], 0, 1)), 3)) for a, b in pairwise(borders) if moving[a + 1]]
