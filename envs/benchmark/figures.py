"""Learning curves and returns as figures: one run, a grid of tasks, or the episodes of an evaluation."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from envs.benchmark.results import BEST_AT, COSTS, LearningCurve, best, published
from envs.benchmark.table import Row, mean_interval, published_means, steps
from policies.storage.folders import replace_file

# Okabe and Ito's colour-blind-safe palette. The published returns differ in shape too.
OURS, POLICY, THEIRS, INK, TRAINED, PALE = "#0072B2", "#009E73", "#D55E00", "#333333", "#BBBBBB", "#D9D9D9"
DASHES = (0, (4, 2))
DPI = 150
FEW = 40  # points
SIZE = (8.0, 5.0)  # inches: 1200 x 750 pixels, made to be read at 600 x 375
TILE = (3.2, 2.5)  # inches of one task in a grid


def save(path: Path | str, figure: Figure) -> None:
    """Write a figure as a PNG file, atomically. Raises OSError; an existing file is then left unchanged."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    replace_file(Path(path), drawn.getvalue())


def _letters(size: int) -> dict:
    """Return Matplotlib's settings for a figure with letters of this size."""
    return {"font.size": size, "axes.titlesize": size + 1, "text.color": INK, "axes.labelcolor": INK}


@rc_context(_letters(12))
def learning_curve(curve: LearningCurve, task: str) -> Figure:
    """Draw one run: training returns, their moving mean, evaluations, TD-MPC2's published points."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    at, trained = curve.train_steps, curve.train_return
    if len(at):
        axes.plot(at, trained, color=TRAINED, lw=1, label="training episode", **_dots(at, 3))
    if len(at) >= 20:  # of fewer, it would be the same line
        axes.plot(at, smooth(trained, len(at) // 10), color=OURS, lw=2, alpha=0.45, label="moving mean")
    at, alone = curve.eval_steps, curve.eval_policy_return
    if np.isfinite(alone).any():
        axes.plot(at, alone, color=POLICY, lw=0, marker="s", ms=6, mfc="white", mew=1.5, label="policy alone")
    if len(at):
        look: dict = {"elinewidth": 1.5, "capsize": 3, "color": OURS, "marker": "o", "ms": 7, "lw": 0}
        spread = curve.eval_std if np.any(curve.eval_std > 0) else None  # there is none of single episodes
        axes.errorbar(at, curve.eval_return, spread, label="evaluation" + " ± std" * (spread is not None), **look)
    _published(axes, task, curve.end)
    _axes(axes, curve.end)
    axes.set(xlabel="environment steps", ylabel="return (rewards of an episode, summed)")
    _headed(figure, task)
    key = axes.get_legend_handles_labels()
    figure.legend(*key, loc="outside lower left", ncols=3, frameon=False, fontsize=11, columnspacing=1.4)
    return figure


def _dots(at: Float[ndarray, " n"], size: int) -> dict:
    """Return the look of a line's points: dots where they are few, since a single one has no line."""
    return {"marker": "o", "ms": size * (1 + (len(at) < 3))} if len(at) <= FEW else {}


@rc_context(_letters(11))
def paired_strips(samples: Mapping[str, Float[ndarray, " n"]], title: str) -> Figure:
    """Draw a strip of dots per sample of returns, a line joining item i of each, with means and 95 % intervals."""
    values = np.array(list(samples.values()), float)
    places = np.arange(len(values))
    figure = Figure(figsize=(1.5 + 1.8 * len(values), SIZE[1]), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(places, values, color=PALE, lw=0.8, zorder=1)
    for place, returns, color in zip(places, values, [OURS, POLICY] * len(values), strict=False):
        axes.plot(np.full(len(returns), place), returns, color=color, marker="o", ms=6, lw=0, alpha=0.6, gid="episodes")
        mean, beside = mean_interval(returns), place + 0.16
        if np.isfinite(mean.low):
            ends = [[mean.estimate - mean.low], [mean.high - mean.estimate]]
            axes.errorbar(beside, mean.estimate, ends, color=color, capsize=3, elinewidth=1.5, lw=0)
        axes.plot(beside, mean.estimate, color=color, marker="_", ms=16, mew=2.5, gid="mean")
        text = f"{mean.estimate:.0f}"
        axes.annotate(text, (beside, mean.estimate), (10, 0), textcoords="offset points", va="center")
    _axes(axes, 1)
    axes.set_xlim(-0.4, places[-1] + 0.6)
    axes.set_xticks(places, list(samples))
    axes.set_ylabel("return of an episode")
    _headed(figure, title)
    return figure


@rc_context(_letters(9))
def small_multiples(runs: Mapping[str, Sequence[LearningCurve]]) -> Figure:
    """Draw a grid of tasks: a thin line per seed, their mean, their range as a band, and published returns."""
    columns = min(4, len(runs)) if len(runs) not in (5, 6, 9) else 3
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(TILE[0] * columns, TILE[1] * lines + 0.5), dpi=DPI, layout="constrained")
    key: dict = {}
    for place, (task, curves) in enumerate(sorted(runs.items())):
        axes = figure.add_subplot(lines, columns, place + 1)
        end = max([curve.end for curve in curves], default=0.0)
        _seeds(axes, curves)
        _published(axes, task, end)
        if (known := best(task)) is not None and 1.05 * end >= BEST_AT:
            star = axes.plot(BEST_AT, known, lw=0, gid="best", label="best published")[0]
            star.set(marker="*", ms=11, mfc="white", mec=THEIRS, clip_on=False, zorder=5)
        _axes(axes, end)
        axes.set_title(task, loc="left", fontweight="bold")
        key |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return", fontsize=9)
    figure.legend([*key.values()], [*key], loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


@rc_context(_letters(11))
def return_by_cost(table: Sequence[Row]) -> Figure | None:
    """Draw the mean return of a table's tasks by the arithmetic of a decision, beside published ones.

    Those whose arithmetic is not known are levels at the right. None, if nobody has published all of the tasks.
    """
    theirs, gflop = published_means(table), [row.gflop for row in table if row.gflop]
    if not theirs or not gflop:
        return None
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    beside: dict = {"textcoords": "offset points", "va": "center"}
    for name, mean in theirs.items():
        if cost := COSTS.get(name):
            axes.plot(cost, mean, marker="D", ms=8, color=THEIRS, mec="white", lw=0, gid="published")
            axes.annotate(f"{name}  {mean:.0f}", (cost, mean), (-8, 0), ha="right", **beside)
    mean, cost = float(np.mean([row.ours.estimate for row in table])), float(np.mean(gflop))
    axes.plot(cost, mean, marker="o", ms=12, color=OURS, lw=0, gid="ours")
    axes.annotate(f"Semagram  {mean:.0f}", (cost, mean), (11, 0), color=OURS, fontweight="bold", **beside)
    axes.set(xscale="log", xlabel="GFLOP of a decision (update and plan), of others estimated")
    axes.set(ylabel=f"mean return of {len(table)} tasks, {steps(BEST_AT)} steps")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 3)
    axes.set_ylim(0.9 * min(mean, *theirs.values()), 1.05 * max(mean, *theirs.values()))
    free = np.inf
    for name in [name for name in theirs if name not in COSTS]:  # highest first; each name below the one before
        axes.axhline(theirs[name], color=PALE, lw=1, zorder=0)
        free = min(theirs[name], free - 0.042 * float(np.ptp(axes.get_ylim())))
        place: dict = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
        axes.annotate(
            f"{theirs[name]:.0f}  {name}", (1, free), (6, 0), color="#777777", fontsize="small", **place, **beside
        )
    axes.spines[["top", "right"]].set_visible(False)
    _headed(figure, "Return by arithmetic; at the right, whose arithmetic is not known")
    return figure


def smooth(values: Float[ndarray, " T"], window: int) -> Float[ndarray, " T"]:
    """Return the centred moving mean over `window` values (made odd); at the ends, over the values available."""
    kernel = np.ones(min(max(window, 1), len(values)) // 2 * 2 + 1)
    total = np.convolve(values, kernel)
    count = np.convolve(np.ones(len(values)), kernel)
    half = len(kernel) // 2
    return (total / count)[half : half + len(values)]


def trace(curve: LearningCurve) -> tuple[Float[ndarray, " N"], Float[ndarray, " N"]]:
    """Return (steps, returns) that represent a run: evaluations or, if fewer than two, smoothed training returns."""
    if len(curve.eval_steps) >= 2 or len(curve.train_steps) == 0:
        return curve.eval_steps, curve.eval_return
    return curve.train_steps, smooth(curve.train_return, len(curve.train_return) // 10)


def _seeds(axes: Axes, curves: Sequence[LearningCurve]) -> None:
    """Draw a thin line per seed, and the mean and range over the steps that all seeds cover."""
    traces = [(x, y) for x, y in map(trace, curves) if len(x)]
    for x, y in traces:
        axes.plot(x, y, color=OURS, lw=0.8, alpha=0.5, gid="seed", **_dots(x, 2))
    if not traces:
        return
    first, last = max(x[0] for x, _ in traces), min(x[-1] for x, _ in traces)
    grid = np.unique(np.concatenate([x for x, _ in traces]))
    grid = grid[(first <= grid) & (grid <= last)]
    returns = np.array([np.interp(grid, x, y) for x, y in traces])
    label = "Semagram: mean and range of the seeds"
    axes.plot(grid, returns.mean(0), color=OURS, lw=2.2, gid="mean", label=label, **_dots(grid, 4))
    axes.fill_between(grid, returns.min(0), returns.max(0), color=OURS, alpha=0.15, lw=0, gid="range")


def _published(axes: Axes, task: str, end: float) -> None:
    """Draw TD-MPC2's returns as diamonds on a dashed line; if all lie beyond the run, the first as a level."""
    points, label = published(task), "TD-MPC2, published"
    near = {at: value for at, value in sorted(points.items()) if at <= 1.05 * end}
    look: dict = {"color": THEIRS, "ls": DASHES, "lw": 1.2, "zorder": 4}
    if len(near) == 1:
        axes.axhline(next(iter(near.values())), alpha=0.5, **look)
    if near:
        (line,) = axes.plot([*near], [*near.values()], gid="published", label=label, **look)
        line.set(marker="D", ms=7, mec="white", clip_on=False)
    elif points:
        at = min(points)
        axes.axhline(points[at], gid="published", label=label, **look)
        high = points[at] > sum(axes.get_ylim()) / 2  # the curve rises from lower left to upper right
        edge, side = (0, "left") if high else (1, "right")
        place: dict = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": side}
        text, beside = f"at {steps(at)} steps", (4 - 8 * edge, 3)
        axes.annotate(text, (edge, points[at]), beside, color=THEIRS, fontsize="small", **place)


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
        axes.set_yticks(range(0, 1001, 250))
        axes.set_ylim(min(0, low) if axes.dataLim.y0 < 0 else 0, 1030)


def _headed(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
