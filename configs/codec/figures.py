"""Figures of a codec: its error against bits, compared with other codes, and a chunk as its ids refine it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from envs.benchmark.figures import DPI, save
from policies.codec import Codec
from policies.codec.baselines.beast import Beast
from policies.codec.baselines.fast import Fast
from policies.codec.comparison import Measurement, rms
from policies.codec.training import windows_of

INK, GREY = "#1b1b3a", "#9aa0a6"
SCALES, POINTS = (2, 4, 7, 10, 16), (0.5, 0.75, 1, 1.5, 2)


def rate_distortion(
    path: Path, codec: Codec, fitted: np.ndarray, held_out: list[np.ndarray], rows: list[Measurement]
) -> None:
    """Plot the error on held-out chunks against bits: every prefix of ours, other codes over a range of settings."""
    length = codec.config.length
    windows = windows_of(held_out, length + 1, max(1, length // 4))
    chunks, start = windows[:, 1:], windows[:, 0] if codec.config.relative else None
    ids = codec.encode(chunks, start)
    counts = range(1, codec.config.ids + 1)
    ours = [rms(codec.decode(ids[:, :n], start) - chunks) for n in counts]
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([n * codec.config.bits for n in counts], ours, "o-", color=INK, label="semagram, every prefix")
    points = next(row.ids for row in rows if row.codec.startswith("beast")) / chunks.shape[2]
    for name, marker, codes in (
        ("FAST, coarse to fine", "s--", [Fast(fitted, scale) for scale in SCALES]),
        ("BEAST, few to many points", "^--", [Beast(fitted, max(6, round(share * points))) for share in POINTS]),
    ):
        axes.plot(*zip(*(_point(code, chunks) for code in codes), strict=True), marker, color=GREY, label=name)
        axes.lines[-1].set_alpha(0.6 if marker.startswith("^") else 1)
    axes.set(xscale="log", yscale="log", xlabel="bits a chunk", ylabel="RMSE (half the range is 1)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(path, figure)


def refinement(path: Path, codec: Codec, window: np.ndarray, ids: np.ndarray, names: tuple[str, ...]) -> None:
    """Plot a scaled chunk (`window`, its start first) channel by channel, with what prefixes of its ids decode to."""
    count = window.shape[1]
    figure = Figure(figsize=(6, 1.4 * count), dpi=DPI, layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)
    start = window[0] if codec.config.relative else None
    shown = sorted({1, 2, 4, codec.config.ids} & set(range(1, codec.config.ids + 1)))
    for channel, panel in enumerate(axes[:, 0]):
        panel.plot(window[1:, channel], color=INK, linewidth=2.5, alpha=0.25)
        for n in shown:
            shade = 0.25 + 0.75 * n / codec.config.ids
            panel.plot(codec.decode(ids[:n], start)[:, channel], color=INK, alpha=shade, linewidth=0.8)
        panel.set_ylabel(names[channel], rotation=0, ha="right")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_title(f"after {', '.join(map(str, shown))} of {codec.config.ids} ids; wide: the chunk")
    axes[-1, 0].set_xlabel("control step")
    save(path, figure)


def _point(code, chunks: np.ndarray) -> tuple[float, float]:
    """Return a code's mean number of bits per chunk and its RMS error."""
    written = [code.encode(chunk) for chunk in chunks]
    error = np.array([code.decode(ids) for ids in written]) - chunks
    return float(np.mean([len(ids) for ids in written]) * np.log2(code.vocabulary)), rms(error)
