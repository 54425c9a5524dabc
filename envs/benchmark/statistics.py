"""Interquartile mean and bootstrap intervals, for few runs of many tasks.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(rliable, arXiv 2108.13264). The rliable package depends on pandas, seaborn, arch and statsmodels and was last
released in 2024; we need only these few lines of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

RESAMPLES = 10_000
ENDS = (0.025, 0.975)
"""Quantiles that bound a 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the data's unit. The ends are NaN if there is only one run."""

    estimate: float
    low: float
    high: float


def normalise(returns: Float[ndarray, "*n"], full: float = 1000.0) -> Float[ndarray, "*n"]:
    """Return scores in units of the `full` return: 1000 is the ceiling of every dm_control task, 0 its floor."""
    return np.asarray(returns, float) / full


def interquartile_mean(scores: Float[ndarray, "*b n"]) -> Float[ndarray, "*b"] | np.float64:
    """Return the mean along the last axis after dropping the lowest and the highest floor(n / 4) scores.

    Raises ValueError for an empty axis or a score that is not finite.
    """
    from scipy.stats import trim_mean  # importing it takes a second

    return trim_mean(_checked(scores), 0.25, axis=-1)


def bootstrap_mean(
    values: Float[ndarray, "*b n"], rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Float[ndarray, "*b"] | np.float64, Float[ndarray, "*b"] | np.float64]:
    """Return the ends (low, high) of the 95 % percentile bootstrap interval of the mean along the last axis.

    A resample draws n of the n values with replacement: its mean is `weights @ values`, with weights
    multinomial / n that are shared by all leading axes. With few values the interval is too narrow: for n = 3 it is
    their range, which covers the mean of a symmetric distribution in 75 % of cases.
    Both ends are NaN for n = 1. Raises ValueError for no values or a non-finite one.
    """
    values = _checked(values)
    n = values.shape[-1]
    if n == 1:
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    low, high = np.quantile(values @ weights.T, ENDS, axis=-1)
    return low, high


def mean_interval(values: Sequence[float] | ndarray, rng: np.random.Generator) -> Interval:
    """Return the mean of one sample with its 95 % percentile bootstrap interval (see `bootstrap_mean`)."""
    values = np.asarray(values, float)
    low, high = bootstrap_mean(values, rng)
    return Interval(float(values.mean()), float(low), float(high))


def stratified_resamples(
    tasks: Sequence[Float[ndarray, " _"]], rng: np.random.Generator, resamples: int
) -> Float[ndarray, "resamples runs"]:
    """Draw bootstrap resamples in which each run is only ever replaced by a run of the same task.

    The columns are the runs of all tasks, concatenated; tasks may have different numbers of runs. Raises ValueError
    for no tasks, a task without runs, or a non-finite score.
    """
    drawn = []
    for runs in map(_checked, tasks):
        drawn.append(runs[rng.integers(len(runs), size=(resamples, len(runs)))])
    if not drawn:
        raise ValueError("no tasks to resample")
    return np.concatenate(drawn, axis=1)


def stratified_interval(tasks: Sequence[Float[ndarray, " _"]], rng: np.random.Generator) -> Interval:
    """Return the interquartile mean of all runs of all tasks with its stratified 95 % percentile bootstrap interval.

    tasks: one array of normalised scores per task, one score per seed.
    The ends are NaN if no task has two runs. Raises ValueError for no tasks, a task without runs, or a non-finite
    score.
    """
    drawn = interquartile_mean(stratified_resamples(tasks, rng, RESAMPLES))
    estimate = float(interquartile_mean(np.concatenate([np.asarray(runs, float) for runs in tasks])))
    if max(len(runs) for runs in tasks) < 2:
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(drawn, ENDS)
    return Interval(estimate, float(low), float(high))


def _checked(values: Sequence[float] | ndarray) -> ndarray:
    values = np.asarray(values, float)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError("no values to take a statistic of")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values
