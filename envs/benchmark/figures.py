"""Learning curves as PNG files: one run, or a grid of tasks, with published returns marked."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType
from numpy import ndarray

from envs.benchmark.anchors import Anchor
from envs.benchmark.curves import LearningCurve, smooth, trace
from envs.benchmark.statistics import mean_interval
from envs.benchmark.table import steps
from policies.storage.folders import replace_file

# Okabe and Ito's colour-blind-safe palette. The anchor differs in shape too.
OURS, POLICY, ANCHOR, INK, PALE = "#0072B2", "#009E73", "#D55E00", "#333333", "#D9D9D9"
DASHES = (0, (4, 2))
THEIRS = "TD-MPC2, published"
DPI = 150
SIZE = (8.0, 5.0)  # inches: 1200 x 750 pixels, made to be read at 800 x 500
TILE = (3.2, 2.5)  # inches of one task in a grid
STYLE: dict[RcKeyType, object] = {"font.size": 11, "axes.titlesize": 13, "text.color": INK, "axes.labelcolor": INK}
SMALL: dict[RcKeyType, object] = {**STYLE, "font.size": 9, "axes.titlesize": 10}


def learning_curve(path: Path | str, curve: LearningCurve, anchors: Mapping[int, float], title: str) -> None:
    """Write the figure of one run: training returns, their moving mean, evaluations, TD-MPC2's published points.

    anchors: published mean return by environment steps. Raises OSError; an existing file is then left unchanged.
    """
    with rc_context(STYLE):
        save(path, draw_learning_curve(curve, anchors, title))


def small_multiples(
    path: Path | str,
    runs: Mapping[str, Sequence[LearningCurve]],
    anchors: Mapping[str, Mapping[int, float]],
    best: Mapping[str, Anchor] | None = None,
) -> None:
    """Write a grid of tasks: a thin line per seed, their mean, their range as a band, and published returns.

    Raises ValueError for no tasks, and OSError; an existing file is then left unchanged.
    """
    with rc_context(SMALL):
        save(path, draw_small_multiples(runs, anchors, best or {}))


def paired_strips(path: Path | str, samples: Mapping[str, Float[ndarray, " n"]], title: str) -> None:
    """Write a strip of dots per sample of returns, a line joining item i of each, with means and intervals.

    Raises ValueError for no samples or samples of unequal size, and OSError; an existing file is then left unchanged.
    """
    with rc_context(STYLE):
        save(path, draw_paired_strips(samples, title))


def draw_learning_curve(curve: LearningCurve, anchors: Mapping[int, float], title: str) -> Figure:
    """Draw the figure that `learning_curve` writes."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.train_steps, curve.train_return, color=PALE, lw=1, label="training episode")
    if len(curve.train_return) >= 5:
        mean = smooth(curve.train_return, len(curve.train_return) // 10)
        axes.plot(curve.train_steps, mean, color=OURS, lw=2, alpha=0.45, label="moving mean")
    at, alone = curve.eval_steps, curve.eval_policy_return
    if np.isfinite(alone).any():
        axes.plot(at, alone, color=POLICY, lw=0, marker="s", ms=5, mfc="white", mew=1.3, label="policy alone")
    if len(at):
        bars = curve.eval_return, curve.eval_std
        label = "evaluation ± std"
        axes.errorbar(at, *bars, elinewidth=1.2, capsize=3, color=OURS, marker="o", ms=6, lw=0, label=label)
    _anchors(axes, anchors, curve.end)
    _axes(axes, curve.end)
    axes.set(xlabel="environment steps", ylabel="return")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    key = axes.get_legend_handles_labels()
    figure.legend(*key, loc="outside lower left", ncols=5, frameon=False, fontsize=9, columnspacing=1.4)
    return figure


def draw_paired_strips(samples: Mapping[str, Float[ndarray, " n"]], title: str) -> Figure:
    """Draw the figure that `paired_strips` writes: each sample's mean is a bar with its 95 % bootstrap interval."""
    values = np.array(list(samples.values()), float)
    if values.ndim != 2 or not values.size:
        raise ValueError("no samples, or samples of unequal size, to draw")
    places = np.arange(len(values))
    figure = Figure(figsize=(1.5 + 1.8 * len(values), SIZE[1]), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(places, values, color=PALE, lw=0.8, zorder=1)
    for place, returns, color in zip(places, values, [OURS, POLICY] * len(values), strict=False):
        axes.plot(np.full(len(returns), place), returns, color=color, marker="o", ms=6, lw=0, alpha=0.6, gid="episodes")
        mean = mean_interval(returns, np.random.default_rng(0))
        if np.isfinite(mean.low):
            ends = [[mean.estimate - mean.low], [mean.high - mean.estimate]]
            axes.errorbar(place + 0.16, mean.estimate, ends, color=color, capsize=3, elinewidth=1.5, lw=0)
        axes.plot(place + 0.16, mean.estimate, color=color, marker="_", ms=16, mew=2.5, gid="mean")
        axes.annotate(
            f"{mean.estimate:.0f}", (place + 0.16, mean.estimate), (10, 0), textcoords="offset points", va="center"
        )
    _axes(axes, 1)
    axes.set_xlim(-0.4, places[-1] + 0.6)
    axes.set_xticks(places, list(samples))
    axes.set_ylabel("return of an episode")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def draw_small_multiples(
    runs: Mapping[str, Sequence[LearningCurve]],
    anchors: Mapping[str, Mapping[int, float]],
    best: Mapping[str, Anchor],
) -> Figure:
    """Draw the figure that `small_multiples` writes."""
    if not runs:
        raise ValueError("no tasks to draw")
    columns = min(4, len(runs)) if len(runs) not in (5, 6, 9) else 3
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(TILE[0] * columns, TILE[1] * lines + 0.5), dpi=DPI, layout="constrained")
    for place, (task, curves) in enumerate(sorted(runs.items())):
        axes = figure.add_subplot(lines, columns, place + 1)
        end = max([curve.end for curve in curves], default=0.0)
        _seeds(axes, curves)
        _anchors(axes, anchors.get(task, {}), end)
        if task in best and best[task].env_steps <= 1.05 * end:
            at, value = best[task].env_steps, best[task].mean_return
            axes.plot(at, value, marker="*", ms=11, mfc="white", mec=ANCHOR, lw=0, clip_on=False, gid="best", zorder=5)
        _axes(axes, end)
        axes.set_title(task, loc="left", fontweight="bold")
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return", fontsize=9)
    figure.legend(handles=_key(bool(best)), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _seeds(axes: Axes, curves: Sequence[LearningCurve]) -> None:
    """Draw a thin line per seed, and the mean and range over the steps that all seeds cover."""
    traces = [(x, y) for x, y in map(trace, curves) if len(x)]
    for x, y in traces:
        axes.plot(x, y, color=OURS, lw=0.8, alpha=0.5, gid="seed")
    if not traces:
        return
    first, last = max(x[0] for x, _ in traces), min(x[-1] for x, _ in traces)
    grid = np.unique(np.concatenate([x for x, _ in traces]))
    grid = grid[(first <= grid) & (grid <= last)]
    returns = np.array([np.interp(grid, x, y) for x, y in traces])
    axes.plot(grid, returns.mean(0), color=OURS, lw=2.2, gid="mean")
    axes.fill_between(grid, returns.min(0), returns.max(0), color=OURS, alpha=0.15, lw=0, gid="range")


def _anchors(axes: Axes, anchors: Mapping[int, float], end: float) -> None:
    """Draw published returns as diamonds on a dashed line; if all lie beyond the run, the first as a level."""
    near = {at: value for at, value in sorted(anchors.items()) if at <= 1.05 * end}
    levels = list(near.values())
    if len(near) == 1:
        axes.axhline(levels[0], color=ANCHOR, ls=DASHES, lw=1.2, alpha=0.5, zorder=4, gid="level")
    if near:
        (line,) = axes.plot(list(near), levels, color=ANCHOR, ls=DASHES, lw=1.2, zorder=4, gid="anchors", label=THEIRS)
        line.set(marker="D", ms=7, mec="white", clip_on=False)
    elif anchors:
        at = min(anchors)
        axes.axhline(anchors[at], color=ANCHOR, ls=DASHES, lw=1.2, zorder=4, gid="anchors", label=THEIRS)
        high = anchors[at] > sum(axes.get_ylim()) / 2  # the curve rises from lower left to upper right
        edge, side = (0, "left") if high else (1, "right")
        axes.annotate(
            f"at {steps(at)} steps",
            (edge, anchors[at]),
            (4 - 8 * edge, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha=side,
            color=ANCHOR,
            fontsize="small",
        )


def _axes(axes: Axes, end: float) -> None:
    """Style the axes: steps as 50k and 1M, no frame, a shared scale for returns of 0 to 1000."""
    axes.xaxis.set_major_formatter(lambda value, _: steps(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(color="#999999", labelcolor=INK)
    axes.grid(axis="y", color="#EEEEEE", lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1.02 * end or 1)
    low, high = axes.get_ylim()
    if low > -100 and 300 < high < 1150:
        axes.set_ylim(0, 1030)
        axes.set_yticks(range(0, 1001, 250))


def _key(best: bool) -> list[Line2D]:
    """Return the legend entries of a grid."""
    key = [
        Line2D([], [], color=OURS, lw=2.2, label="Semagram: mean and range of the seeds"),
        Line2D([], [], color=ANCHOR, ls=DASHES, lw=1.2, marker="D", mec="white", label=THEIRS),
    ]
    star = Line2D([], [], color=ANCHOR, marker="*", ms=11, mfc="white", lw=0, label="best published")
    return [*key, star] if best else key


def save(path: Path | str, figure: Figure) -> None:
    """Write a figure as a PNG file, atomically. Raises OSError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    replace_file(Path(path), drawn.getvalue())
