"""Laws of the anchors, the results table and the block of a Markdown file that holds it."""

import re

import pytest

from envs import suite
from envs.benchmark import anchors
from envs.benchmark.ablations import common
from envs.benchmark.ablations import markdown as ablations
from envs.benchmark.block import BlockError, update_block
from envs.benchmark.results import Result
from envs.benchmark.table import caption, markdown, rows, steps, summary, text


def run(task, seed, mean, *, agent="semagram", env_steps=100_000, minutes=10.0):
    """A result with the return `mean`."""
    numbers = (env_steps, mean, 0.0, 1, mean - 10, 60 * minutes, 1.0, 4.0, 1.0, 1)
    return Result(task, seed, agent, *numbers, "a CPU", "abc", (mean,))


RUNS = [run("walker-walk", seed, mean) for seed, mean in enumerate((940.0, 970.0, 985.0))]
RUNS += [run("hopper-stand", seed, mean) for seed, mean in enumerate((10.0, 20.0, 30.0))]


CUP = ["cup-catch", "ball_in_cup-catch", "ball-in-cup-catch", "dm_control/ball_in_cup-catch-v0"]


@pytest.mark.parametrize("name", CUP)
def test_one_task_has_one_anchor_whatever_it_is_called(name):
    assert anchors.published(name) == {100_000: 981.2, 200_000: 976.6, 500_000: 984.7, 1_000_000: 985.8}
    assert anchors.best(name) is None


def test_all_spellings_of_a_task_are_one_name():
    for name, (domain, task) in suite.BY_NAME.items():
        assert len({anchors.canonical(n) for n in (name, f"{domain}-{task}", f"dm_control/{domain}-{task}-v0")}) == 1
        assert anchors.scale(name) == 1000
    for other, name in suite.ALIASES.items():
        assert anchors.canonical(other) == anchors.canonical(name)
    assert anchors.canonical("point-mass-easy") == "pointmass-easy"  # as TD-MPC2 reads it


def test_anchors_that_nobody_published_are_empty():
    assert anchors.published("Pendulum-v1") == {}
    assert anchors.best("Pendulum-v1") is None
    assert anchors.scale("Pendulum-v1") is None
    assert anchors.scale("humanoid_CMU-run") == 1000
    assert anchors.best("cheetah-run") == anchors.Anchor(100_000, 722.0, "XQC")
    assert anchors.published("finger-turn_easy")[100_000] == 488.0


def test_an_anchor_cannot_be_changed_by_its_reader():
    anchors.published("walker-walk").clear()
    assert anchors.published("walker-walk")


def test_every_published_return_lies_on_its_scale():
    for task, points in anchors._tdmpc2().items():
        assert max(points.values()) <= anchors.scale(task)
        assert (anchors.scale(task) == 1000) == (max(points.values()) > 1) or max(points.values()) == 0


def test_a_row_is_the_mean_over_seeds_in_its_interval():
    hopper, walker = rows(RUNS)
    assert (hopper.task, walker.task) == ("hopper-stand", "walker-walk")
    assert walker.ours.estimate == 965.0
    assert (walker.ours.low, walker.ours.high) == (940.0, 985.0)
    assert walker.ratio == pytest.approx(965 / 961.9)
    assert (hopper.published, hopper.best, hopper.policy, hopper.minutes) == (28.2, 862.0, 10.0, 10.0)


def test_anchors_stand_only_beside_the_steps_they_were_published_at():
    (row,) = rows([run("hopper-stand", 0, 500.0, env_steps=50_000)])
    assert (row.published, row.best, row.ratio) == (None, None, None)
    (row,) = rows([run("hopper-stand", 0, 500.0, env_steps=500_000)])
    assert (row.published, row.best) == (936.5, None)


def test_rows_do_not_depend_on_the_order_or_on_other_agents():
    others = [run("walker-walk", 0, 1.0, agent="no-planner"), run("cheetah-run", 0, 1.0, agent="no-planner")]
    assert rows(RUNS[::-1] + others) == rows(RUNS)


def test_a_peer_run_here_gets_its_columns():
    peer = run("walker-walk", 0, 900.0, agent="tdmpc2", minutes=810)
    assert "run here" not in markdown(rows(RUNS))
    assert "| 900 | 810.0 |" in markdown(rows([*RUNS, peer]))


def test_tables_are_rectangular():
    for table in (
        rows(RUNS),
        rows([]),
        rows([run("Pendulum-v1", 0, -150.0)]),
        rows([*RUNS, run("Pendulum-v1", 0, -150.0)]),
    ):
        lines = markdown(table).split("\n")
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) == 2 + len(table) + 2 * bool(summary(table))
        assert len(text(table).split("\n")) == len(lines) + 1


def test_only_a_return_that_reaches_the_published_one_is_bold():
    hopper, walker = markdown(rows(RUNS)).split("\n")[2:4]
    assert "**965** [940, 985]" in walker
    assert "**" not in hopper


def test_the_foot_is_over_tasks_with_a_scale_and_its_ratio_over_published_ones():
    swimmer = run("swimmer-swimmer6", 0, 500.0)
    foot = markdown(rows([*RUNS, run("Pendulum-v1", 0, -150.0), swimmer])).split("\n")[-2]
    ratio = (965 + 20) / (961.9 + 28.2)
    assert re.match(rf"\| mean of 3 \|  \| {(965 + 20 + 500) / 3:.0f} .* 495 \(of 2\) \| {ratio:.2f} ", foot)


def test_summary_leaves_out_tasks_without_a_scale():
    assert summary(rows([run("Pendulum-v1", 0, -150.0)])) is None
    assert summary(rows([*RUNS, run("Pendulum-v1", 0, -150.0)])) == summary(rows(RUNS))
    assert summary(rows(RUNS)).estimate == pytest.approx((20 + 30 + 940 + 970) / 4 / 1000)


def test_caption_names_seeds_episodes_and_device():
    assert caption(RUNS).startswith("Seeds a task: 3; episodes a seed: 1; device: a CPU; commit: abc.")
    assert caption(RUNS[:-1]).startswith("Seeds a task: 2–3;")
    assert caption([]).startswith("Seeds a task: 0;")


def test_steps_are_written_for_people():
    assert [*map(steps, (0, 500, 2500, 100_000, 1_500_000))] == ["0", "500", "2.5k", "100k", "1.5M"]


def test_a_block_is_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Head\n<!-- results:begin -->\nold\n<!-- results:end -->\ntail <!-- other:begin -->")
    assert update_block(path, "results", "| new |")
    assert (
        path.read_text() == "# Head\n<!-- results:begin -->\n| new |\n<!-- results:end -->\ntail <!-- other:begin -->"
    )
    assert not update_block(path, "results", "| new |\n")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "content",
    [
        "none",
        "<!-- a:begin -->",
        "<!-- a:end --><!-- a:begin -->",
        "<!-- a:begin --><!-- a:end --><!-- a:end -->",
    ],
)
def test_markers_that_are_no_pair_are_refused(tmp_path, content):
    path = tmp_path / "README.md"
    path.write_text(content)
    with pytest.raises(BlockError, match=r"README\.md"):
        update_block(path, "a", "text")
    assert path.read_text() == content


def test_agents_are_compared_on_the_runs_that_all_of_them_did():
    plain = [run("walker-walk", seed, 485.0, agent="no-planner") for seed in range(2)]
    kept = common([*RUNS, *plain, run("cup-catch", 0, 1.0, agent="no-planner")], ["semagram", "no-planner"])
    assert {(r.task, r.seed) for r in kept} == {("walker-walk", 0), ("walker-walk", 1)}
    ours, theirs = ablations([*RUNS, *plain], ["semagram", "no-planner"]).split("\n")[2:]
    assert ours == "| semagram | 955 [940, 970] | 0.955 [0.940, 0.970] | 1.00 |"
    assert theirs == "| no-planner | 485 [485, 485] | 0.485 [0.485, 0.485] | 0.51 |"
    with pytest.raises(ValueError, match="no task and seed"):
        ablations(RUNS, ["semagram", "nobody"])


def test_agents_are_held_against_the_first_even_where_it_earned_nothing():
    runs = [run("walker-walk", 0, mean, agent=name) for name, mean in (("none", 0.0), ("half", 500.0), ("all", 1000.0))]
    lines = ablations(runs, ["none", "half", "all"]).split("\n")[2:]
    assert [line.split(" | ")[-1] for line in lines] == ["– |"] * 3
