"""Laws of the curves and figures: what is read, what is drawn, and a picture there whole or not at all."""

import struct

import numpy as np
import pytest

from envs.benchmark import figures
from envs.benchmark.anchors import Anchor, published
from envs.benchmark.curves import LearningCurve, read_curve, smooth, trace
from envs.benchmark.results import ResultsError

HEADER = "env_steps,decisions,updates,episode_return,episode_length,"
HEADER += "eval_return,eval_std,eval_policy_return,loss_value\n"


def curve(end=100_000, top=900.0, seed=0):
    """A made-up run of `end` steps that rises to about `top`."""
    train = np.arange(1000.0, end + 1, 1000)
    evaluation = np.linspace(end / 5, end, 5)
    noise = np.random.default_rng(seed).normal(0, 20, len(train))
    deviation = np.full(5, 15.0)
    risen = top * evaluation / end
    return LearningCurve(train, top * train / end + noise, evaluation, risen, deviation, deviation * np.nan, float(end))


def named(axes, gid):
    """The drawn things of that name."""
    return [child for child in axes.get_children() if child.get_gid() == gid]


def png_size(path):
    """Width and height in pixels of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_a_metrics_file_is_read_by_name(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1000,500,0,12.5,500,,,,\n2000,1000,500,,,300,20,280,0.1\n3000,1500,1000,40,500,,,,\n40")
    read = read_curve(path)
    assert [*read.train_steps] == [1000, 3000]
    assert [*read.train_return] == [12.5, 40]
    assert (read.eval_steps, read.eval_return, read.eval_std, read.eval_policy_return) == (2000, 300, 20, 280)
    assert read.end == 3000


def test_what_an_expert_drove_is_not_the_agents_return(tmp_path):
    path = tmp_path / "metrics.csv"
    head = HEADER.replace("eval_return", "episode_driven,eval_return")
    path.write_text(head + "1000,,,90,50,50,,,,\n2000,,,10,50,0,,,,\n3000,,,80,50,7,,,,\n4000,,,,,,30,1,,\n")
    read = read_curve(path)
    assert [*read.train_steps] == [2000] and [*read.train_return] == [10]
    assert [*read.eval_return] == [30]
    path.write_text(head + "1000,,,90,50,50,,,,\n")
    assert read_curve(path).end == 1000  # so far it is


def test_a_run_that_has_only_begun_is_an_empty_curve(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER)
    assert read_curve(path).end == 0
    figures.draw_learning_curve(read_curve(path), published("walker-walk"), "begun")
    figures.draw_small_multiples({"walker-walk": [read_curve(path)]}, {}, {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("env_steps,episode_return,eval_return\n", "line 1: no column eval_std"),
        ("", "line 1: no column env_steps"),
        (HEADER + "1000,500,0,high,500,,,,\n", "line 2: episode_return='high' is no number"),
        (HEADER + "1000,500\n", "line 2: 2 cells, there must be 9"),
        (HEADER + "2000,,,1,,,,,\n1000,,,1,,,,,\n", "line 3: env_steps=1000 after 2000"),
        (HEADER + ",,,1,,,,,\n", "line 2: env_steps must be"),
    ],
)
def test_a_broken_metrics_file_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"^[^\n]*$") as caught:
        read_curve(path)
    assert said in str(caught.value)
    with pytest.raises(ResultsError, match="No such file"):
        read_curve(tmp_path / "none.csv")


@pytest.mark.parametrize("window", [1, 2, 3, 4, 50])
def test_smoothing_keeps_constants_and_stays_between_the_extremes(window):
    values = np.random.default_rng(0).normal(size=20)
    np.testing.assert_allclose(smooth(np.full(20, 3.0), window), 3.0)
    assert smooth(values, window).shape == values.shape
    assert values.min() - 1e-9 <= smooth(values, window).min() <= smooth(values, window).max() <= values.max() + 1e-9
    np.testing.assert_allclose(smooth(values, 1), values)


def test_smoothing_does_not_shift_a_line():
    line = np.arange(20.0)
    np.testing.assert_allclose(smooth(line, 5)[2:-2], line[2:-2])


def test_a_run_without_evaluations_is_drawn_by_its_training():
    full = curve()
    nothing = np.zeros(0)
    bare = LearningCurve(full.train_steps, full.train_return, *[nothing] * 4, full.end)
    assert trace(full)[0] is full.eval_steps
    assert trace(bare)[0] is full.train_steps


def test_a_learning_curve_is_a_png_of_the_stated_size(tmp_path):
    path = tmp_path / "curve.png"
    figures.learning_curve(path, curve(), published("walker-walk"), "walker-walk, seed 0")
    assert png_size(path) == tuple(round(inches * figures.DPI) for inches in figures.SIZE)
    assert [*tmp_path.iterdir()] == [path]


def test_anchors_within_the_run_are_points_at_their_steps():
    (axes,) = figures.draw_learning_curve(curve(500_000), published("cheetah-run"), "").axes
    (points,) = named(axes, "anchors")
    np.testing.assert_allclose(points.get_xydata(), [[1e5, 519.1], [2e5, 614.4], [5e5, 757.6]])
    assert points.get_marker() == "D"


def test_anchors_beyond_the_run_are_a_level_that_names_its_steps():
    (axes,) = figures.draw_learning_curve(curve(20_000), published("cheetah-run"), "").axes
    (level,) = named(axes, "anchors")
    assert set(level.get_ydata()) == {519.1}
    assert [words.get_text() for words in axes.texts] == ["at 100k steps"]
    assert axes.get_xlim()[1] < 21_000  # the run is not squeezed to make room


def test_a_task_without_anchors_has_none_drawn():
    (axes,) = figures.draw_learning_curve(curve(), {}, "").axes
    assert named(axes, "anchors") == []


def test_a_grid_draws_each_seed_their_mean_and_their_range():
    curves = [curve(seed=seed, top=top) for seed, top in enumerate((600.0, 700.0, 950.0))]
    best = {"cheetah-run": Anchor(100_000, 722.0, "XQC")}
    runs = {"walker-walk": curves[:1], "cheetah-run": curves}
    figure = figures.draw_small_multiples(runs, {task: published(task) for task in runs}, best)
    cheetah, walker = figure.axes
    assert (cheetah.get_title("left"), walker.get_title("left")) == ("cheetah-run", "walker-walk")
    assert len(named(cheetah, "seed")) == 3
    (mean,) = named(cheetah, "mean")
    np.testing.assert_allclose(mean.get_ydata()[-1], 750.0)
    (band,) = named(cheetah, "range")
    assert band.get_datalim(cheetah.transData).ymax == pytest.approx(950.0)
    assert len(named(cheetah, "anchors")) == len(named(walker, "anchors")) == len(named(cheetah, "best")) == 1
    assert named(walker, "best") == []


def test_the_mean_of_unfinished_runs_ends_where_the_shortest_ends():
    figure = figures.draw_small_multiples({"walker-walk": [curve(100_000), curve(40_000)]}, {}, {})
    (mean,) = named(figure.axes[0], "mean")
    assert mean.get_xdata()[-1] == 40_000


def test_a_grid_is_a_png_and_needs_a_task(tmp_path):
    path = tmp_path / "curves.png"
    figures.small_multiples(path, {"walker-walk": [curve()], "a-b": [curve()], "c-d": []}, {})
    width, height = png_size(path)
    assert (width, height) == (
        round(3 * figures.TILE[0] * figures.DPI),
        round((figures.TILE[1] + 0.5) * figures.DPI),
    )
    with pytest.raises(ValueError, match="no tasks"):
        figures.small_multiples(path, {}, {})


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        figures.learning_curve(path, curve(), {}, "")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
