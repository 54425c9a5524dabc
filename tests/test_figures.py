"""Learning curves as figures: what is drawn is what was measured, within the picture, beside what was published."""

import numpy as np
import pytest

from envs.benchmark import figures
from envs.benchmark.results import LearningCurve
from envs.benchmark.table import Row


def curve(end=100_000, top=900.0, seed=0):
    """A made-up run of `end` steps that rises to about `top`."""
    train, evaluation = np.arange(1000.0, end + 1, 1000), np.linspace(end / 5, end, 5)
    noise, deviation = np.random.default_rng(seed).normal(0, 20, len(train)), np.full(5, 15.0)
    risen = top * evaluation / end
    return LearningCurve(train, top * train / end + noise, evaluation, risen, deviation, risen / 2, float(end))


def named(axes, gid):
    """The drawn things of that name."""
    return [child for child in axes.get_children() if child.get_gid() == gid]


def test_published_returns_within_the_run_are_points_and_beyond_it_a_level_that_names_its_steps():
    (axes,) = figures.learning_curve(curve(500_000), "cheetah-run").axes
    (points,) = named(axes, "published")
    np.testing.assert_allclose(points.get_xydata(), [[1e5, 519.1], [2e5, 614.4], [5e5, 757.6]])
    (axes,) = figures.learning_curve(curve(20_000), "cheetah-run").axes
    (level,) = named(axes, "published")
    assert set(level.get_ydata()) == {519.1}
    assert [words.get_text() for words in axes.texts] == ["at 100k steps"]
    assert axes.get_xlim()[1] < 21_000  # the run is not squeezed to make room
    (axes,) = figures.learning_curve(curve(), "Pendulum-v1").axes
    assert named(axes, "published") == []


def few(returns, evaluations=()):
    """The drawn curve of a run of few episodes, as axes and what the legend names."""
    steps, none = np.arange(1000.0, 1000 * len(returns) + 1, 1000), np.zeros(len(evaluations))
    given = steps, np.array(returns), steps[: len(none)], np.array(evaluations), none, none * np.nan, steps[-1]
    figure = figures.learning_curve(LearningCurve(*given), "Pendulum-v1")
    (legend,) = figure.legends
    return figure.axes[0], [words.get_text() for words in legend.get_texts()]


@pytest.mark.parametrize("returns", [[-40.0, 700.0], [-1400.0, -200.0], [0.0, 700.0], [-5.0]])
def test_every_return_lies_within_the_picture_as_a_dot(returns):
    axes, words = few(returns)
    low, high = axes.get_ylim()
    assert low <= min(returns) and max(returns) < high and words == ["training episode"]
    assert axes.lines[0].get_marker() == "o"
    (axes,) = figures.small_multiples({"a": [LearningCurve(*[np.array(returns[:1])] * 6, 1000.0)]}).axes
    assert {line.get_marker() for name in ("seed", "mean") for line in named(axes, name)} == {"o"}


def test_the_legend_names_what_is_drawn():
    assert few([1.0] * 20, [3.0])[1] == ["training episode", "moving mean", "evaluation"]


def test_a_grid_draws_each_seed_and_their_mean_and_range_over_the_steps_that_all_cover():
    curves = [curve(seed=seed, top=top) for seed, top in enumerate((600.0, 700.0, 950.0))]
    figure = figures.small_multiples({"walker-walk": curves[:1], "cheetah-run": curves})
    cheetah, walker = figure.axes
    assert (cheetah.get_title("left"), walker.get_title("left")) == ("cheetah-run", "walker-walk")
    (mean,), (band,) = named(cheetah, "mean"), named(cheetah, "range")
    np.testing.assert_allclose(mean.get_ydata()[-1], 750.0)
    assert band.get_datalim(cheetah.transData).ymax == pytest.approx(950.0)
    assert [len(named(cheetah, gid)) for gid in ("seed", "published", "best")] == [3, 1, 1]
    assert [len(named(walker, gid)) for gid in ("seed", "published", "best")] == [1, 1, 1]
    (axes,) = figures.small_multiples({"walker-walk": [curve(100_000), curve(40_000)]}).axes
    (mean,) = named(axes, "mean")
    assert mean.get_xdata()[-1] == 40_000


def test_a_mean_return_stands_at_its_arithmetic_beside_the_published_ones_or_there_is_no_picture():
    def row(task, gflop=2.0):
        return Row(task, 100_000, (700.0, 900.0), None, None, gflop)

    (axes,) = figures.return_by_cost([row("walker-walk"), row("cheetah-run", 8.0)]).axes
    (ours,) = named(axes, "ours")
    assert ours.get_xydata().tolist() == [[5.0, 800.0]]
    at = dict(each.get_xydata()[0] for each in named(axes, "published"))
    assert at[87.0] == pytest.approx((961.8 + 519.1) / 2, abs=0.5)  # TD-MPC2
    heights = [words.xy[1] for words in axes.texts]
    assert all(axes.get_ylim()[0] < height < axes.get_ylim()[1] for height in heights)
    for none in ([row("Pendulum-v1"), row("walker-walk")], [row("walker-walk", None), row("cheetah-run", None)]):
        assert figures.return_by_cost(none) is None


def test_a_run_without_an_episode_and_a_pair_of_samples_are_drawn_too():
    empty = LearningCurve(*[np.zeros(0)] * 6, 0.0)
    figures.learning_curve(empty, "walker-walk")
    figures.small_multiples({"walker-walk": [empty]})
    (axes,) = figures.paired_strips({"a": np.array([1.0, 2.0, 6.0]), "b": np.array([4.0, 4.0, 4.0])}, "title").axes
    assert [line.get_ydata().tolist() for line in named(axes, "episodes")] == [[1, 2, 6], [4, 4, 4]]
    assert [float(np.squeeze(line.get_ydata())) for line in named(axes, "mean")] == [3, 4]
