"""Laws of the statistics: what an interquartile mean ignores, an interval covers, a stratum keeps."""

import numpy as np
import pytest

from envs.benchmark.statistics import interquartile_mean, mean_interval, normalise, stratified_interval


def rng(seed=0):
    """A seeded generator."""
    return np.random.default_rng(seed)


def test_interquartile_mean_ignores_the_outer_quarters():
    scores = rng().normal(size=16)
    order = np.argsort(scores)
    wild = scores.copy()
    wild[order[:4]], wild[order[-4:]] = -1e6, 1e6
    assert interquartile_mean(wild) == pytest.approx(interquartile_mean(scores))
    assert interquartile_mean(scores) == pytest.approx(np.sort(scores)[4:12].mean())


def test_interval_covers_the_mean_nineteen_times_in_twenty():
    intervals = [mean_interval(rng(n).exponential(3.0, size=60), rng(n)) for n in range(300)]
    assert 0.9 <= np.mean([found.low <= 3.0 <= found.high for found in intervals]) <= 0.97


def test_interval_of_three_values_is_their_range_and_follows_units():
    found = mean_interval([3.0, 1.0, 2.0], rng())
    assert (found.estimate, found.low, found.high) == (2.0, 1.0, 3.0)
    assert mean_interval([33.0, 13.0, 23.0], rng()).high == pytest.approx(10 * found.high + 3)


def test_interval_of_one_run_claims_nothing_and_of_equal_ones_is_a_point():
    assert np.isnan(mean_interval([4.0], rng()).low)
    assert np.isnan(stratified_interval([np.array([0.4]), np.array([0.6])], rng()).high)
    assert mean_interval([4.0, 4.0], rng()).high == 4.0


def test_stratified_interval_is_narrow_where_only_tasks_differ_and_keeps_a_task_of_one_run():
    rows = np.repeat(np.array([[0.1], [0.5], [0.9]]), 3, axis=1) + rng().normal(0, 0.01, (3, 3))
    within, pooled = stratified_interval(list(rows), rng()), stratified_interval([rows.ravel()], rng())
    assert within.estimate == pooled.estimate
    assert within.high - within.low < 0.2 * (pooled.high - pooled.low)
    one = stratified_interval([*rows, np.array([0.5])], rng())
    assert one.low <= one.estimate <= one.high


def test_normalise_makes_the_ceiling_one():
    np.testing.assert_allclose(normalise(np.array([0.0, 1000.0])), [0, 1])


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan]), np.array([1.0, np.inf])])
def test_nothing_and_non_finite_values_are_refused(bad):
    for found in (
        mean_interval,
        lambda x, draws: stratified_interval([x], draws),
        lambda x, draws: stratified_interval([], draws),
    ):
        with pytest.raises(ValueError):
            found(bad, rng())
