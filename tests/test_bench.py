"""Laws of the benchmark: what dies goes on by the same command, nothing is done twice, and its table is true."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from configs.auto_resume import PATIENCE_S, found
from configs.suites import report

from configs.arguments import choices
from configs.bench import tabulate
from configs.command import composed
from configs.schema import BenchConfig
from envs.benchmark.results import Result, ResultsError, latest, read, run_of, write
from envs.suite import NAMES
from policies.storage.folders import FolderError
from worldmodel.strict import ConfigError, build

HOME = Path(__file__).resolve().parent.parent
TASKS = ("Pendulum-v1", "InvertedPendulum-v5")


def result(task, seed, mean, agent="semagram", env_steps=100_000):
    """A finished run."""
    numbers = (env_steps, mean, 0.0, 1, mean - 10, 600.0, 166.0, 4.0, 100.0, 1)
    return Result(task, seed, agent, *numbers, "a CPU", "abc", (mean,))


def bench(toys, home, *more):
    """Begin a tiny benchmark of two tasks."""
    keys = [*toys.tiny_keys, f"tasks=[{','.join(TASKS)}]", "seeds=1", "steps=500", "out=out", "evaluation.every=0"]
    command = [sys.executable, "-P", "-m", "configs.commands", "bench", *keys, *more]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Its exit code, its result, and what it said."""
    out, err = process.communicate(timeout=1200)
    return process.returncode, out and json.loads(out.splitlines()[-1]), err


def members(home):
    """Process ids of the runs of a benchmark, by the names of their folders."""
    pids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, place = (folder / "cmdline").read_bytes().decode(), (folder / "cwd").readlink()
        except OSError:
            continue
        if place == home and (run := re.search(r"configs\.sweep_member.*out/([\w-]+)'", line)):
            pids[run[1]] = int(folder.name)
    return pids


def wait(process, happens):
    """Wait until something happens, while the process lives."""
    until = time.monotonic() + 600
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_what_is_killed_is_gone_on_with_by_the_same_command_and_what_is_finished_is_left_alone(toys, tmp_path):
    runs = {task: tmp_path / "out" / f"{task}-seed1" for task in TASKS}
    process = bench(toys, tmp_path)
    first = runs[TASKS[0]]
    wait(process, lambda: any((first / "checkpoints").glob("0*")))
    os.kill(members(tmp_path)[first.name], signal.SIGKILL)
    code, made, _ = ended(process)
    assert (code, made["tasks"]) == (1, [TASKS[1]])
    assert [*made["failed"]] == [first.name]
    before = {path: path.stat().st_mtime_ns for path in runs[TASKS[1]].rglob("*") if path.name != "log.txt"}
    code, made, _ = ended(bench(toys, tmp_path))
    assert (code, made["failed"], made["tasks"], made["agent"]) == (0, {}, sorted(TASKS), "out")
    assert "going on from" in (first / "log.txt").read_text()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    results = read(tmp_path / "out")
    assert read(tmp_path / "out" / "results.csv") == sorted(results, key=lambda r: TASKS.index(r.task))
    assert made["return_mean"] == {r.task: round(r.return_mean, 2) for r in results}
    assert {"table.md", "curves.png", "results.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    code, made, said = ended(bench(toys, tmp_path, "learning.batch_size=9"))
    assert (code, made, said.count("\n")) == (2, "", 1)
    assert re.search(r"learning\.batch_size=9: .*-seed1 was begun with 8", said)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a run follows its parent on Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_it_takes_its_runs_along(toys, tmp_path, number):
    process = bench(toys, tmp_path, "steps=100000")
    wait(process, lambda: any(tmp_path.glob("out/*/checkpoints/0*")))
    process.send_signal(number)
    code, made, _ = ended(process)
    assert (code, made) == (-number if number == signal.SIGKILL else 128 + number, "")
    until = time.monotonic() + 120
    while members(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert any("stopped by SIGTERM" in log.read_text() for log in tmp_path.glob("out/*/log.txt"))


@pytest.fixture
def begun(tmp_path):
    """A run folder with a config, and what `resume=auto` finds there for given arguments."""
    keys = composed("train", ["steps=500"])
    (tmp_path / "config.yaml").write_text(json.dumps(keys))
    return lambda *arguments: found(composed("train", ["steps=500", "resume=auto", *arguments]), tmp_path)


def test_a_folder_is_begun_gone_on_with_or_finished(begun, tmp_path):
    assert begun()[0] is None and begun()[1]["resume"] == ""
    (tmp_path / "checkpoints" / "000000100").mkdir(parents=True)
    summary, keys, about = begun("steps=800")
    assert (summary, keys["resume"], keys["steps"]) == (None, str(tmp_path), 800)
    assert {"steps", "learning.rho", "task.name"} <= about and "resume" not in about
    (tmp_path / "summary.json").write_text('{"env_steps": 501}')
    assert begun()[0] == {"env_steps": 501}
    assert begun("steps=800")[0] is None


@pytest.mark.parametrize("key", ["learning.rho=0.25", "noise=pink", "seed=2", "task=walker-run", "token=line2"])
def test_a_folder_of_other_settings_is_refused_by_name(begun, tmp_path, key):
    with pytest.raises(ConfigError, match=rf"{tmp_path} was begun with"):
        begun(key)
    (tmp_path / "summary.json").write_text('{"env_steps": 900}')
    with pytest.raises(ConfigError, match=r"steps=500: .* has 900 already"):
        begun()


def test_what_may_change_on_resuming_may_change(begun):
    assert begun("threads=2", "video=false", "evaluation.every=7")[1]["threads"] == 2


def test_a_damaged_or_a_busy_folder_is_named(begun, tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text('{"env_steps": 5')
    with pytest.raises(FolderError, match=rf"^{tmp_path}/summary.json: damaged"):
        begun()
    monkeypatch.setattr("configs.auto_resume.locked", lambda folder: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert PATIENCE_S >= 60
    with pytest.raises(FolderError, match="another semagram-train is running there"):
        begun()


def test_results_are_read_back_as_they_were_written(tmp_path):
    rows = [result("a", 1, 1 / 3), replace(result("b", 2, -5.0), policy_return_mean=None, parameters=None)]
    write(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv") == rows
    assert latest([*rows, replace(rows[0], return_mean=7.0)]) == [replace(rows[0], return_mean=7.0), rows[1]]


def test_a_run_counts_by_the_steps_asked_for(tmp_path):
    run = tmp_path / "mine" / "x-seed1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("steps: 500\n")
    assert run_of(run, "mine") is None
    (run / "summary.json").write_text(json.dumps(asdict(result("x", 1, 5.0, env_steps=502))))
    assert read(tmp_path / "mine") == [replace(result("x", 1, 5.0, "mine"), env_steps=500)]


@pytest.mark.parametrize("damage", [b'{"env_steps": 500}', b'{"env_', b"\xff", b"[]"])
def test_a_damaged_summary_is_named(tmp_path, damage):
    (tmp_path / "config.yaml").write_text("steps: 500\n")
    (tmp_path / "summary.json").write_bytes(damage)
    with pytest.raises(ResultsError, match=rf"^{tmp_path}/summary.json: damaged, not the summary of a run"):
        run_of(tmp_path, "a")


@pytest.mark.parametrize(
    ("old", "new"),
    [("\n", "\nx,"), ("100000", "many"), ("5.0,0.0", "nan,0.0"), ("5.0\n", "5.0 6.0\n"), ("seed", "sed")],
)
def test_a_malformed_row_is_named(tmp_path, old, new):
    write(tmp_path / "rows.csv", [result("a", 1, 5.0)])
    (tmp_path / "rows.csv").write_text((tmp_path / "rows.csv").read_text().replace(old, new))
    with pytest.raises(ResultsError, match=rf"^{tmp_path}/rows.csv, line 2: "):
        read(tmp_path / "rows.csv")


def test_suites_are_of_known_tasks():
    for name in choices("suite"):
        suite = composed("bench", [f"suite={name}"])
        assert suite["suite"] == name and not set(suite["tasks"]) - set(NAMES)
        assert len(set(suite["tasks"])) == len(suite["tasks"])


@pytest.fixture
def table(tmp_path):
    """Writes a results file."""

    def writes(name, *results):
        write(tmp_path / name, results)
        return str(tmp_path / name)

    return writes


def test_the_readme_is_made_from_a_results_file(table, tmp_path, capsys):
    path = table("results.csv", result("walker-walk", 1, 970.0), result("hopper-stand", 1, 20.0))
    readme = tmp_path / "README.md"
    readme.write_text("# Head\n<!-- results:begin -->\n<!-- results:end -->\ntail")
    config = build(BenchConfig, asdict(BenchConfig()) | {"table": path, "readme": str(readme)})
    made = tabulate(config)
    assert (made["at_least_published"], made["iqm"]) == ([1, 2], 0.495)
    assert "**970**" in readme.read_text()
    tabulate(config)
    assert capsys.readouterr().err.splitlines() == [f"{readme}: written", f"{readme}: was up to date"]


def test_several_results_files_become_one_comparison(table, capsys):
    ours = table("ours.csv", result("walker-walk", 1, 970.0))
    theirs = table("plain.csv", result("walker-walk", 1, 485.0, "no-planner"))
    made = tabulate(replace(BenchConfig(), table=[theirs, ours], agent="no-planner"))
    assert (made["agent"], made["iqm"]) == ("no-planner", 0.485)
    shown = capsys.readouterr().err
    assert "| no-planner | 485 | 0.485 | 0.50 |" in shown
    with pytest.raises(ConfigError, match=rf"^agent=nobody: not in {theirs}, which have no-planner$"):
        tabulate(replace(BenchConfig(), table=theirs, agent="nobody"))


def test_a_table_is_of_results_of_ours_at_one_number_of_steps_each(table):
    theirs = table("theirs.csv", result("walker-walk", 1, 970.0, "tdmpc2"))
    short = table("short.csv", result("walker-walk", 1, 100.0, env_steps=20_000), result("walker-run", 1, 1.0))
    long = table("long.csv", result("walker-walk", 1, 900.0, env_steps=50_000))
    again = table("again.csv", result("walker-walk", 2, 5.0), result("walker-run", 1, 2.0))
    mixed = "semagram on walker-walk after 20000 and 50000 steps; keep the rows of one"
    twice = "more than one has semagram on walker-run, seed 1"
    for paths, said in (([theirs], "no results of ours"), ([short, long], mixed), ([short, theirs, again], twice)):
        with pytest.raises(ConfigError, match=f"^{re.escape(f'table={", ".join(paths)}: {said}')}$"):
            tabulate(replace(BenchConfig(), table=paths))


def test_the_readme_shows_the_committed_results(tmp_path):
    """Fails when docs/results/dmc-100k.csv has changed and the README's table has not."""
    rows, readme = HOME / "docs" / "results" / "dmc-100k.csv", tmp_path / "README.md"
    readme.write_text((HOME / "README.md").read_text())
    stale = report.update_readme(readme, read(rows))
    assert not stale, "run semagram-bench table=docs/results/dmc-100k.csv readme=README.md"
