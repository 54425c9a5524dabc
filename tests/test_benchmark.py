"""Laws of the benchmark's report: what is read, what an interval covers, what a table and a figure show."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from configs.arguments import choices
from configs.bench import tabulate
from configs.command import composed
from configs.schema import BenchConfig
from envs import suite
from envs.benchmark import results as anchors
from envs.benchmark import table
from envs.benchmark.results import Result, ResultsError, read, read_curve, run_of, write
from envs.benchmark.table import Row, document, field, mean_interval, published_means, rows, stratified_interval
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError

HOME = Path(__file__).resolve().parent.parent
COLUMNS = "env_steps,updates,episode_return,episode_driven,eval_return,eval_std,eval_policy_return\n"


def result(task, seed, mean, agent="semagram", env_steps=100_000, **changes):
    """A finished run."""
    numbers = (env_steps, mean, 0.0, 1, mean - 10, 600.0, 166.0, 4.0, 100.0, 1)
    return replace(Result(task, seed, agent, *numbers, "a CPU", "abc", (mean,)), **changes)


RUNS = [result("walker-walk", seed, mean) for seed, mean in enumerate((940.0, 970.0, 985.0))]
RUNS += [result("hopper-stand", seed, mean) for seed, mean in enumerate((10.0, 20.0, 30.0))]


# What is read.


def test_results_are_read_back_as_they_were_written(tmp_path):
    found = [result("a", 1, 1 / 3), result("b", 2, -5.0, policy_return_mean=None, parameters=None)]
    write(tmp_path / "rows.csv", found)
    assert read(tmp_path / "rows.csv") == [(tmp_path / "rows.csv", each) for each in found]


def test_a_run_counts_by_the_steps_asked_for(tmp_path):
    run = tmp_path / "mine" / "x-seed1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("steps: 500\n")
    assert run_of(run, "mine") is None and read(tmp_path / "mine") == []
    (run / "summary.json").write_text(json.dumps(asdict(result("x", 1, 5.0, env_steps=502)) | {"more": 1}))
    assert read(tmp_path / "mine") == [(run, result("x", 1, 5.0, "mine", 500))]


@pytest.mark.parametrize("damage", [b'{"env_steps": 500}', b'{"env_', b"\xff", b"[]"])
def test_a_damaged_summary_is_named(tmp_path, damage):
    (tmp_path / "config.yaml").write_text("steps: 500\n")
    (tmp_path / "summary.json").write_bytes(damage)
    with pytest.raises(ResultsError, match=rf"^{tmp_path}/summary.json: damaged[^\n]*$"):
        run_of(tmp_path, "a")


@pytest.mark.parametrize(
    ("old", "new"),
    [("\n", "\nx,"), ("100000", "many"), ("5.0,0.0", "nan,0.0"), ("5.0\n", "5.0 6.0\n"), ("seed", "sed")],
)
def test_a_malformed_row_is_named(tmp_path, old, new):
    write(tmp_path / "rows.csv", [result("a", 1, 5.0)])
    (tmp_path / "rows.csv").write_text((tmp_path / "rows.csv").read_text().replace(old, new))
    with pytest.raises(ResultsError, match=rf"^{tmp_path}/rows.csv, line [12]: [^\n]*$"):
        read(tmp_path / "rows.csv")


def test_a_curve_is_of_the_agents_own_episodes_and_a_torn_line_is_not_there(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(COLUMNS + "1000,0,12.5,0,,,\n2000,500,,,300,20,280\n2500,600,90,7,,,\n3000,1000,40,,8,,7\n40")
    read = read_curve(path)
    assert [*read.train_steps] == [1000, 3000] and [*read.train_return] == [12.5, 40]
    assert [*read.eval_steps] == [2000, 3000] and [*read.eval_return] == [300, 8]
    assert [*read.eval_std] == [20, 0] and [*read.eval_policy_return] == [280, 7] and read.end == 3000
    path.write_text(COLUMNS)
    assert read_curve(path).end == 0


@pytest.mark.parametrize(
    "content",
    [
        "env_steps,episode_return,eval_return\n",
        COLUMNS + "1000,0,high,0,,,\n",
        COLUMNS + "1000,500\n",
        COLUMNS + "2000,,1,,,,\n1000,,1,,,,\n",
    ],
)
def test_a_broken_metrics_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(ResultsError, match=rf"^{path}[^\n]*$"):
        read_curve(path)


# Statistics.


def test_interval_covers_the_mean_nineteen_times_in_twenty():
    drawn = [np.random.default_rng(n).exponential(3.0, size=60) for n in range(200)]
    intervals = [mean_interval(values, n) for n, values in enumerate(drawn)]
    assert 0.9 <= np.mean([found.low <= 3.0 <= found.high for found in intervals]) <= 0.97


def test_interval_of_three_values_is_their_range_and_follows_units():
    found = mean_interval([3.0, 1.0, 2.0])
    assert (found.estimate, found.low, found.high) == (2.0, 1.0, 3.0)
    assert mean_interval([33.0, 13.0, 23.0]).high == pytest.approx(10 * found.high + 3)
    assert np.isnan(mean_interval([4.0]).low) and mean_interval([4.0, 4.0]).high == 4.0


def test_stratified_interval_is_narrow_where_only_tasks_differ_and_keeps_a_task_of_one_run():
    tasks = np.repeat(np.array([[0.1], [0.5], [0.9]]), 3, axis=1) + np.random.default_rng(0).normal(0, 0.01, (3, 3))
    within, pooled = stratified_interval([*tasks]), stratified_interval([tasks.ravel()])
    assert within.estimate == pooled.estimate
    assert within.high - within.low < 0.2 * (pooled.high - pooled.low)
    one = stratified_interval([*tasks, np.array([0.5])])
    assert one.low <= one.estimate <= one.high
    assert np.isnan(stratified_interval([np.array([0.4]), np.array([0.6])]).high)


# Published returns.


def test_one_task_has_one_anchor_whatever_it_is_called():
    for name in ["cup-catch", "ball_in_cup-catch", "ball-in-cup-catch", "dm_control/ball_in_cup-catch-v0"]:
        assert anchors.published(name) == {100_000: 981.2, 200_000: 976.6, 500_000: 984.7, 1_000_000: 985.8}
        assert anchors.best(name) == 981.2 == anchors.others(name)["TD-MPC2"]
    for name, (domain, task) in suite.BY_NAME.items():
        assert len({anchors.canonical(n) for n in (name, f"{domain}-{task}", f"dm_control/{domain}-{task}-v0")}) == 1
        assert anchors.scale(name) == 1000
    for other, name in suite.ALIASES.items():
        assert anchors.canonical(other) == anchors.canonical(name)
    assert anchors.canonical("point-mass-easy") == "pointmass-easy"  # as TD-MPC2 reads it
    assert (anchors.best("cheetah-run"), anchors.scale("humanoid_CMU-run")) == (722.4, 1000)
    assert anchors.published("finger-turn_easy")[100_000] == 488.0
    assert not any(known("Pendulum-v1") for known in (anchors.published, anchors.best, anchors.scale))


def test_who_published_all_tasks_of_a_table_is_beside_it_and_nobody_else():
    tasks = composed("bench", ["suite=dmc-28"])["tasks"]
    table = [Row(task, 100_000, (1.0,), None, None, None) for task in tasks]
    means = published_means(table)
    assert {name: round(mean) for name, mean in means.items()}.items() >= {"DR.Q": 536, "SimbaV2 ×8": 571}.items()
    assert "XQC" not in means and [*means.values()] == sorted(means.values(), reverse=True)
    assert "XQC" in published_means([row for row in table if row.task in ("cheetah-run", "walker-run")])
    assert published_means(table[:1]) == published_means([replace(table[0], env_steps=9), *table[1:]]) == {}
    assert field([*table, Row("Pendulum-v1", 100_000, (1.0,), None, None, None)]) == ""


# The table.


def test_a_row_is_the_mean_over_seeds_in_its_interval_whatever_the_order():
    hopper, walker = rows(RUNS, "semagram")
    assert (hopper.task, walker.task, walker.seeds) == ("hopper-stand", "walker-walk", (940.0, 970.0, 985.0))
    assert (walker.ours.estimate, walker.ours.low, walker.ours.high) == (965.0, 940.0, 985.0)
    assert walker.ratio == pytest.approx(965 / 961.9)
    assert (hopper.published, hopper.policy, hopper.minutes, hopper.gflop) == (28.2, 10.0, 10.0, 4.0)
    others = [result("walker-walk", 0, 1.0, "no-planner"), result("cheetah-run", 0, 1.0, "no-planner")]
    assert rows(RUNS[::-1] + others, "semagram") == [hopper, walker]


def lines(results):
    """The lines of the first table."""
    return table.markdown(rows(results, "semagram")).split("\n")


def test_published_returns_stand_only_beside_the_steps_they_were_published_at():
    assert [cell.strip() for cell in lines(RUNS)[2].split("|")[6:9]] == ["28", "0.71", "862"]
    (row,) = rows([result("hopper-stand", 0, 500.0, env_steps=50_000)], "semagram")
    assert (row.published, row.ratio) == (None, None)
    later = result("hopper-stand", 0, 500.0, env_steps=500_000)
    assert [cell.strip() for cell in lines([*RUNS, later])[3].split("|")[6:9]] == ["936", "0.53", "–"]


def test_tables_are_rectangular_and_only_a_return_that_reaches_the_published_one_is_bold():
    pendulum = result("Pendulum-v1", 0, -150.0)
    for results, tasks, foot in ((RUNS, 2, 2), ([], 0, 0), ([pendulum], 1, 0), ([*RUNS, pendulum], 3, 2)):
        assert len({line.count("|") for line in lines(results)}) == 1
        assert len(lines(results)) == 2 + tasks + foot
    hopper, walker = lines(RUNS)[2:4]
    assert "**965** [940, 985]" in walker and "**" not in hopper


def test_a_column_without_a_number_is_left_out_and_any_other_stays():
    pendulum = result("Pendulum-v1", 0, -150.0, gflop_per_control_step=None)
    assert lines([pendulum])[0] == "| task | steps | ours [95 %] | per seed | policy alone | minutes |"
    half = result("walker-walk", 0, 485.0, policy_return_mean=None, env_steps=50_000)
    assert lines([half])[0] == "| task | steps | ours [95 %] | per seed | minutes | GFLOP/step |"
    assert lines([half])[-2].startswith("| mean of 1 |  | 485 |  |")
    whole = lines([*RUNS, pendulum])
    assert whole[0] == lines([])[0] == lines(RUNS)[0] and whole[2].count("–") == 4


def test_the_foot_is_over_tasks_with_a_scale_and_its_ratio_over_published_ones():
    results = [*RUNS, result("Pendulum-v1", 0, -150.0), result("swimmer-swimmer6", 0, 500.0)]
    mean, iqm = lines(results)[-2:]
    ratio = (965 + 20) / (961.9 + 28.2)
    assert re.match(rf"\| mean of 3 \|  \| {(965 + 20 + 500) / 3:.0f} .* 495 \(of 2\) \| {ratio:.2f} ", mean)
    assert iqm.startswith("| interquartile mean |  | 0.4")
    assert table.pooled(rows(RUNS, "semagram")).estimate == pytest.approx((20 + 30 + 940 + 970) / 4 / 1000)
    assert table.pooled(rows(results[:-1], "semagram")) == table.pooled(rows(RUNS, "semagram"))


def test_a_document_says_how_its_numbers_came_about_and_compares_agents_on_the_runs_that_all_did():
    plain = [result("walker-walk", seed, 485.0, "no-planner") for seed in range(2)]
    found = document([*RUNS, *plain, result("cup-catch", 0, 1.0, "no-planner")])
    assert "Seeds a task: 3; episodes a seed: 1; device: a CPU; commit: abc." in found
    assert "Seeds a task: 1–2;" in found
    assert found.split("\n")[-2:] == [
        "| semagram | 955 [940, 970] | 0.955 [0.940, 0.970] | 1.00 |",
        "| no-planner | 485 [485, 485] | 0.485 [0.485, 0.485] | 0.51 |",
    ]
    assert "against" not in document([*RUNS, result("cup-catch", 0, 1.0, "no-planner")])
    nothing = [result("walker-walk", 0, mean, name) for name, mean in (("none", 0.0), ("some", 500.0))]
    assert [line.split(" | ")[-1] for line in document(nothing).split("\n")[-2:]] == ["– |"] * 2


def test_a_summary_counts_what_reaches_the_published_return_and_rounds():
    runs = [result("walker-walk", seed, 961.9, train_seconds=90.04, policy_return_mean=1 / 3) for seed in (1, 2)]
    assert "**962** [962, 962]" in lines(runs)[2]
    made = table.summary([*runs, result("Pendulum-v1", 1, -2 / 3, policy_return_mean=None)], "semagram")
    assert made["at_least_published"] == [1, 1] and made["seeds"] == 2
    assert made["return_mean"] == {"Pendulum-v1": -0.67, "walker-walk": 961.9}
    assert made["policy_return_mean"] == {"Pendulum-v1": None, "walker-walk": 0.33}
    assert made["train_seconds"] == {"Pendulum-v1": 600.0, "walker-walk": 90.0}
    assert (made["iqm"], made["iqm_interval"], made["commit"]) == (0.9619, [0.9619, 0.9619], ["abc"])
    nothing = table.summary([result("Pendulum-v1", 1, -1.0)], "semagram")
    assert (nothing["iqm"], nothing["iqm_interval"], nothing["at_least_published"]) == (None, None, [0, 0])


@pytest.fixture
def saved(tmp_path):
    """Writes a results file."""

    def writes(name, *results):
        write(tmp_path / name, results)
        return str(tmp_path / name)

    return writes


def test_the_readmes_block_is_made_from_a_results_file_and_nothing_else_changes(saved, tmp_path, capsys):
    path = saved("results.csv", result("walker-walk", 1, 970.0), result("hopper-stand", 1, 20.0))
    readme = tmp_path / "README.md"
    readme.write_text(f"# Head\n{table.BEGIN}\nold\n{table.END}\ntail <!-- other:begin -->")
    config = BenchConfig(table=path, readme=str(readme))
    made = tabulate(config)
    assert (made["at_least_published"], made["iqm"]) == ([1, 2], 0.495)
    assert made["return_mean"] == {"hopper-stand": 20.0, "walker-walk": 970.0}
    written = readme.read_text()
    assert "**970**" in written and "\nold\n" not in written
    assert written.startswith(f"# Head\n{table.BEGIN}\n| task") and written.endswith("\ntail <!-- other:begin -->")
    tabulate(config)
    assert capsys.readouterr().err.splitlines() == [f"{readme}: written", f"{readme}: was up to date"]
    for content in ("none", table.BEGIN, table.END + table.BEGIN, table.BEGIN + table.END * 2):
        readme.write_text(content)
        with pytest.raises(ValueError, match=r"README\.md: one line"):
            tabulate(config)
        assert readme.read_text() == content


def test_a_table_is_of_several_files_but_of_each_run_once_and_of_one_number_of_steps(saved, capsys):
    ours = saved("ours.csv", result("walker-walk", 1, 970.0))
    theirs = saved("plain.csv", result("walker-walk", 1, 485.0, "no-planner"))
    made = tabulate(BenchConfig(table=[theirs, ours], agent="no-planner"))
    assert (made["agent"], made["iqm"]) == ("no-planner", 0.485)
    assert "| no-planner | 485 | 0.485 | 0.50 |" in capsys.readouterr().err
    assert tabulate(BenchConfig(table=theirs))["agent"] == "no-planner"
    with pytest.raises(ConfigError, match=rf"^agent=nobody: not in {theirs}, which have no-planner$"):
        tabulate(BenchConfig(table=theirs, agent="nobody"))
    short = saved("short.csv", result("walker-walk", 1, 100.0, env_steps=20_000))
    mixed = "semagram on walker-walk after 20000 and 100000 steps; keep the rows of one"
    twice = "twice semagram on walker-walk, seed 1, after 100000 steps"
    for paths, why in (([saved("none.csv")], "no finished run"), ([ours, short], mixed)):
        with pytest.raises(UserError, match=f"^{re.escape(f'table={", ".join(paths)}: {why}')}$"):
            tabulate(BenchConfig(table=paths))
    with pytest.raises(UserError, match=f"^{ours}, {ours}: {twice}$"):
        tabulate(BenchConfig(table=[ours, theirs, ours]))


def test_a_folder_of_runs_is_a_column_only_if_they_have_the_same_settings_but_task_and_seed(tmp_path, command):
    def run(task, seed, batch, threads):
        place = tmp_path / "mine" / f"{task}-seed{seed}"
        place.mkdir(parents=True, exist_ok=True)
        keys = f"learning: {{batch_size: {batch}}}\nsteps: 100000\nseed: {seed}\nthreads: {threads}\n"
        (place / "config.yaml").write_text(f"task: {{name: {task}, action_repeat: {seed}}}\n{keys}")
        (place / "summary.json").write_text(json.dumps(asdict(result(task, seed, 5.0))))
        return place

    first, other = run("hopper-stand", 1, 8, 1), run("walker-walk", 2, 8, 999)
    with pytest.raises(UserError, match=r"-seed1: a run; a folder of runs makes a table$"):
        tabulate(BenchConfig(table=str(first)))
    code, out, _ = command("bench", f"table={tmp_path / 'mine'}")
    assert code == 0 and json.loads(out)["return_mean"] == {"hopper-stand": 5, "walker-walk": 5}
    assert [each.task for _, each in read(tmp_path)] == ["hopper-stand", "walker-walk"]  # a folder above them
    evaluated = tmp_path / "mine" / "evaluated"  # neither it nor a link is a run of its own
    evaluated.mkdir()
    shutil.copy(first / "summary.json", evaluated)
    (tmp_path / "mine" / "last").symlink_to(first.name)
    assert len(read(tmp_path / "mine")) == 2
    shutil.copytree(first, again := tmp_path / "mine" / "once-more")
    with pytest.raises(UserError, match=f"^{first}, {again}: twice mine on hopper-stand, seed 1, after 100000 steps$"):
        tabulate(BenchConfig(table=str(tmp_path / "mine")))
    with open(again / "config.yaml", "a") as file:
        file.write("planner: {algorithm: theirs}\n")
    with pytest.raises(ConfigError, match=f"^{again}/config.yaml: planner.algorithm=theirs: .*plugins="):
        tabulate(BenchConfig(table=str(tmp_path / "mine")))
    shutil.rmtree(again)
    run("walker-walk", 2, 9, 1)
    line = f"{other}/config.yaml: learning.batch_size=9, but 8 in {first}; a column is of one setting"
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        tabulate(BenchConfig(table=str(tmp_path / "mine")))


def test_seeds_are_so_many_or_those_named():
    assert [BenchConfig(seeds=seeds).each_seed for seeds in (2, [7, 3])] == [[1, 2], [7, 3]]
    for seeds in (0, [], [1, 1], [-1]):
        with pytest.raises(UserError, match=f"^seeds={re.escape(str(seeds))}: how many"):
            BenchConfig(seeds=seeds)


def test_the_readme_shows_the_committed_results(tmp_path):
    """Fails when docs/results/dmc-100k.csv has changed and the README's table has not."""
    readme = tmp_path / "README.md"
    readme.write_text((HOME / "README.md").read_text())
    stale = table.update_readme(
        readme, document([each for _, each in read(HOME / "docs" / "results" / "dmc-100k.csv")])
    )
    assert not stale, "run semagram-bench table=docs/results/dmc-100k.csv readme=README.md"


def test_suites_are_of_known_tasks():
    for name in choices("suite"):
        found = composed("bench", [f"suite={name}"])
        tasks = found.get("tasks", [])  # stuck is of trained agents
        assert found["suite"] == name and not set(tasks) - set(suite.NAMES)
        assert len(set(tasks)) == len(tasks)
