"""Interquartile mean and bootstrap intervals, for few runs of many tasks.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(rliable, arXiv 2108.13264).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, in the data's unit. The ends are NaN if there is only one run."""

    estimate: float
    low: float
    high: float


def normalise(returns: Float[ndarray, "*n"], full: float = 1000.0) -> Float[ndarray, "*n"]:
    """Return scores in units of the `full` return: 1000 is the ceiling of every dm_control task, 0 its floor."""
    return np.asarray(returns, float) / full


def interquartile_mean(scores: Float[ndarray, "*b n"], axis: int = -1) -> Float[ndarray, "*b"] | np.float64:
    """Return the mean along an axis after dropping the lowest and the highest floor(n / 4) scores."""
    from scipy.stats import trim_mean  # importing it takes a second

    return trim_mean(scores, 0.25, axis=axis)


def mean_interval(values: Sequence[float] | ndarray, rng: np.random.Generator) -> Interval:
    """Return the mean of one sample with its percentile bootstrap interval.

    With few values the interval is too narrow: for n = 3 it is their range, which covers the mean of a symmetric
    distribution in 75 % of cases. Raises ValueError for no values or a non-finite one.
    """
    return _interval([values], np.mean, rng)


def stratified_interval(tasks: Sequence[Float[ndarray, " _"]], rng: np.random.Generator) -> Interval:
    """Return the interquartile mean of all runs of all tasks with its stratified percentile bootstrap interval.

    tasks: one array of normalised scores per task, one score per seed; a run is only ever replaced by one of the same
    task. Raises ValueError for no tasks, a task without runs, or a non-finite score.
    """
    return _interval(tasks, interquartile_mean, rng)


def _interval(strata: Sequence, statistic, rng: np.random.Generator) -> Interval:
    from scipy.stats import bootstrap

    strata = [np.asarray(values, float) for values in strata]
    if not strata or not all(values.size and np.isfinite(values).all() for values in strata):
        raise ValueError("no values to take a statistic of, or one that is not finite")
    estimate = float(statistic(np.concatenate(strata), axis=-1))
    several = [values for values in strata if len(values) > 1]
    alone = np.array([values[0] for values in strata if len(values) == 1])  # replaced by themselves only
    if not several:
        return Interval(estimate, np.nan, np.nan)
    if all(np.ptp(values) == 0 for values in several):
        return Interval(estimate, estimate, estimate)

    def drawn(*samples: ndarray, axis: int) -> ndarray:
        rest = np.broadcast_to(alone, (*samples[0].shape[:-1], len(alone)))
        return statistic(np.concatenate([*samples, rest], axis=-1), axis=-1)

    ends = bootstrap(several, drawn, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return Interval(estimate, float(ends.low), float(ends.high))
