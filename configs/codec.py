"""semagram-tokens: fit a codec to a dataset, draw what it encodes and decodes, or draw a plan as a glyph."""

import io
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np

from configs.schema import TokensConfig
from policies.codec import Codec, CodecConfig
from policies.codec.codec import check_place
from policies.codec.fitting import Scaling, windows_of
from policies.glyphs.ink import draw as draw_ink
from policies.settings import CodecChoices
from policies.storage.folders import replace_file
from policies.tokens.curves import fit_from
from policies.tokens.vocabulary import Grip, Move, Sentence, Token, read_sentence, text, unfit
from robot import datasets
from worldmodel.errors import UserError

INK = "#1b1b3a"
CHUNKS = 4
"""Largest number of chunks of an episode that are drawn, so that a glyph stays readable."""
STILL = 0.01
"""A switching channel rests on a level while it moves less than this per step, as a share of its range in the data."""


def tokens(config: TokensConfig, folder: Path) -> dict:
    """Do what the verb of semagram-tokens says."""
    return {"fit": fit, "draw": draw}[config.verb](config, folder)


def fit(config: TokensConfig, folder: Path) -> dict:
    """Fit a codec to all of a dataset and save it."""
    out = Path(config.out) if config.out else folder / "codec"
    check_place(out)  # before fitting, which takes minutes for a long dataset
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    check_lengths(config, choice.length, recording.episodes)
    codec = Codec.fit(recording.episodes, choice)
    codec.save(out)
    return {"codec": str(out), "episodes": len(recording.episodes), **about(codec, recording.names)}


def draw(config: TokensConfig, folder: Path) -> dict:
    """Draw a held-out chunk as its ids refine it and an episode as a glyph, or just the glyph of a sentence."""
    if config.plan:
        return draw_glyph(read_sentence(Path(config.plan)), folder)
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    if wrong := unfit(choice.curve_points, choice.length / recording.rate_hz):
        raise UserError(
            f"seconds={config.seconds:g} control_points={config.control_points} at {recording.rate_hz:g} Hz: {wrong}"
        )
    fitted, held_out = split(recording.episodes, config)
    check_lengths(config, choice.length, fitted, held_out)
    codec = Codec.fit(fitted, choice)
    window = windows_of(held_out, codec.config.length + 1, codec.config.length)[0]
    ids = codec.encode(window[1:], window[0])
    folder.mkdir(parents=True, exist_ok=True)
    draw_refinement(folder / "chunk.png", codec, window, ids, recording.names)
    glyph = draw_glyph(decoded_sentence(codec, held_out, recording.rate_hz), folder)
    return {"figure": str(folder / "chunk.png"), "ids": ids.tolist(), **glyph, **about(codec, recording.names)}


def settings(config: TokensConfig, rate_hz: float) -> CodecConfig:
    """Return the codec's settings for a dataset of this rate. Raises ValueError if a chunk is below two steps."""
    length = round(config.seconds * rate_hz)
    if length < 2:
        raise UserError(f"seconds={config.seconds:g}: a chunk of {length} steps at {rate_hz:g} Hz; at least 2")
    return CodecConfig(**{f.name: getattr(config, f.name) for f in fields(CodecChoices)}, length=length)


def check_lengths(config: TokensConfig, length: int, *parts: list[np.ndarray]) -> None:
    """Raise ValueError if a part of a dataset has no episode longer than a chunk of `length` steps."""
    longest = min(max(map(len, episodes)) for episodes in parts)
    if longest <= length:
        raise UserError(
            f"seconds={config.seconds:g}: a chunk has {length} steps, and one comes before; the longest episode to fit "
            f"to, or to draw, has {longest}"
        )


def split(episodes: list[np.ndarray], config: TokensConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split episodes at random into those to fit to and those held out.

    Both are scaled so that the 1 % and 99 % quantiles of the former are -1 and 1; some values lie outside. Raises
    ValueError for fewer than two episodes.
    """
    if len(episodes) < 2:
        raise UserError(f"dataset={config.dataset}: {len(episodes)} episode; at least 2, to hold one out")
    order = np.random.default_rng(config.seed).permutation(len(episodes))
    count = min(len(episodes) - 1, max(1, round(config.held_out * len(episodes))))
    fitted = [episodes[i].astype(float) for i in sorted(order[count:])]
    scaling = Scaling.fit(fitted)
    held_out = [episodes[i].astype(float) for i in sorted(order[:count])]
    return [scaling.scale(e) for e in fitted], [scaling.scale(e) for e in held_out]


def about(codec: Codec, names: tuple[str, ...]) -> dict:
    """Summarize a codec: chunk length, names of channels and of those that switch, bits per string."""
    bits = codec.config.ids * codec.config.bits
    switching = [names[c] for c in codec.switching]
    return {"length": codec.config.length, "channels": list(names), "switching": switching, "string_bits": bits}


def draw_glyph(sentence: Sentence, folder: Path) -> dict:
    """Write glyph.svg and glyph.png to `folder`; return the path of the former, and the sentence as one line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("glyph.svg", "glyph.png"):
        draw_ink(sentence, folder / name)
    return {"glyph": str(folder / "glyph.svg"), "sentence": text(sentence)}


def draw_refinement(path: Path, codec: Codec, window: np.ndarray, ids: np.ndarray, names: tuple[str, ...]) -> None:
    """Plot a scaled chunk (`window`, its start first) channel by channel, with what prefixes of its ids decode to."""
    from matplotlib.figure import Figure

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
