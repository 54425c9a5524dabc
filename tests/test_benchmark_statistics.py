"""Laws of the statistics: what an interquartile mean ignores, an interval covers, a stratum keeps."""

import numpy as np
import pytest

from envs.benchmark.statistics import (
    bootstrap_mean,
    interquartile_mean,
    mean_interval,
    normalise,
    stratified_interval,
    stratified_resamples,
)


def rng(seed=0):
    """A seeded generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 24])
def test_interquartile_mean_of_a_constant_is_the_constant(count):
    assert interquartile_mean(np.full((2, count), 0.7)) == pytest.approx([0.7, 0.7])


def test_interquartile_mean_ignores_the_outer_quarters():
    scores = rng().normal(size=16)
    order = np.argsort(scores)
    wild = scores.copy()
    wild[order[:4]], wild[order[-4:]] = -1e6, 1e6
    assert interquartile_mean(wild) == pytest.approx(interquartile_mean(scores))
    assert interquartile_mean(scores) == pytest.approx(np.sort(scores)[4:12].mean())


def test_interval_covers_the_mean_nineteen_times_in_twenty():
    samples = rng(1).exponential(3.0, size=(2000, 60))
    low, high = bootstrap_mean(samples, rng(2), resamples=2000)
    assert 0.925 <= np.mean((low <= 3.0) & (high >= 3.0)) <= 0.96


def test_interval_of_three_values_is_their_range():
    low, high = bootstrap_mean(np.array([3.0, 1.0, 2.0]), rng())
    assert (low, high) == (1.0, 3.0)


def test_interval_is_the_same_for_the_same_generator_and_follows_units():
    values = rng().normal(size=7)
    low, high = bootstrap_mean(values, rng(5))
    assert bootstrap_mean(values, rng(5)) == (low, high)
    np.testing.assert_allclose(bootstrap_mean(10 * values + 3, rng(5)), (10 * low + 3, 10 * high + 3))


def test_interval_contains_its_estimate_and_of_one_run_claims_nothing():
    interval = mean_interval([1.0, 5.0, 6.0, 2.0], rng())
    assert interval.low < interval.estimate == 3.5 < interval.high
    assert np.isnan(mean_interval([4.0], rng()).low)
    assert np.isnan(stratified_interval([np.array([0.4]), np.array([0.6])], rng()).high)


def test_stratified_resamples_never_mix_tasks():
    tasks = [np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0]), np.array([100.0])]
    drawn = stratified_resamples(tasks, rng(), 500)
    columns = np.split(drawn, [3, 5], axis=1)
    for task, column in zip(tasks, columns, strict=True):
        assert set(np.unique(column)) == set(task)  # all of its own, none of another's


def test_stratified_interval_is_narrow_where_only_tasks_differ():
    rows = np.repeat(np.array([[0.1], [0.5], [0.9]]), 3, axis=1) + rng().normal(0, 0.01, (3, 3))
    within = stratified_interval(list(rows), rng())
    pooled = stratified_interval([rows.ravel()], rng())
    assert within.estimate == pooled.estimate
    assert within.high - within.low < 0.2 * (pooled.high - pooled.low)


def test_normalise_makes_the_ceiling_one():
    np.testing.assert_allclose(normalise(np.array([0.0, 1000.0])), [0, 1])


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan]), np.array([1.0, np.inf])])
def test_nothing_and_non_finite_values_are_refused(bad):
    for statistic in (
        interquartile_mean,
        lambda x: bootstrap_mean(x, rng()),
        lambda x: stratified_interval([x], rng()),
    ):
        with pytest.raises(ValueError):
            statistic(bad)
    with pytest.raises(ValueError, match="no tasks"):
        stratified_interval([], rng())
