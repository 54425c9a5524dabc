"""Laws of a sweep and of the benchmark, which is one: what dies goes on by the same command, and nothing runs twice."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.sweep import averages
from envs.benchmark.results import read

TASKS = ("Pendulum-v1", "InvertedPendulum-v5")
QUICK = ("evaluation.every=0", "evaluation.episodes=1", "learning.updates_per_token=0.02", "task.max_control_steps=50")
STEPS, STOP = "steps=1500", signal.SIGTERM
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="runs follow parents on Linux"),
]


@pytest.fixture
def bench(toys, command):
    """Runs a tiny benchmark of two tasks; gives its exit code, its result, and what it said."""
    keys = [*toys.tiny_keys, *QUICK, f"tasks=[{','.join(TASKS)}]", "seeds=1", "out=out", "workers=1"]

    def run(*more):
        code, out, err = command("bench", *keys, *more)
        return code, out and json.loads(out.splitlines()[-1]), err

    return run


@contextmanager
def meanwhile(happens, act):
    """Do something as soon as something happens; it must have happened by the end."""
    over = threading.Event()

    def watch():
        while not happens():
            assert not over.is_set()
            time.sleep(0.02)
        act()

    watching = threading.Thread(target=watch)
    watching.start()
    yield
    over.set()
    watching.join()


def members(home):
    """Process ids of the runs of a benchmark, by the names of their folders."""
    pids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, place = (folder / "cmdline").read_bytes().decode(), (folder / "cwd").readlink()
        except OSError:
            continue
        if place == home and (run := re.search(r"configs\.sweep.*out/([\w-]+)'", line)):
            pids[run[1]] = int(folder.name)
    return pids


def test_a_benchmark_takes_its_runs_along_when_it_ends_and_goes_on_by_the_same_command(bench, command, tmp_path):
    first, second = (tmp_path / "out" / f"{task}-seed1" for task in TASKS)
    kill = lambda: os.kill(members(tmp_path)[first.name], signal.SIGKILL)  # noqa: E731
    with meanwhile(lambda: any(first.glob("checkpoints/0*")), kill):
        code, made, _ = bench(STEPS)
    assert (code, made["tasks"], [*made["failed"]]) == (1, [TASKS[1]], [first.name])
    before = {path: path.stat().st_mtime_ns for path in second.rglob("*") if path.name != "log.txt"}

    with meanwhile(lambda: "going on from" in (first / "log.txt").read_text(), lambda: os.kill(os.getpid(), STOP)):
        assert bench(STEPS)[:2] == (128 + STOP, "")
    assert members(tmp_path) == {}
    assert (first / "log.txt").read_text().rstrip().split("\n")[-1].startswith("stopped by SIGTERM")

    code, made, _ = bench(STEPS)
    assert (code, made["failed"], made["tasks"], made["agent"]) == (0, {}, sorted(TASKS), "out")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    results = [result for _, result in read(tmp_path / "out")]
    kept = [result for _, result in read(tmp_path / "out" / "results.csv")]
    assert kept == sorted(results, key=lambda r: TASKS.index(r.task))
    assert made["return_mean"] == {r.task: round(r.return_mean, 2) for r in results}
    assert {"table.md", "curves.png", "results.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "curves.png").unlink()
    assert command("bench", "table=out")[0] == 0 and (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    code, made, said = bench(STEPS, "learning.batch_size=9")
    assert (code, made, said.count("\n")) == (2, "", 1)
    assert re.search(r"learning\.batch_size=9: .*-seed1 was begun with 8", said)


def test_what_a_command_starts_is_stopped_even_when_the_command_is_killed(tmp_path):
    code = "from configs.sweep import started; started('twin', ['port_file=port']).wait()"
    words = [sys.executable, "-P", "-c", code]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        while not (tmp_path / "port").exists():
            assert parent.poll() is None
            time.sleep(0.02)
        parent.kill()
        (line,) = parent.stdout  # it ends as it does on SIGTERM, and with it this pipe
    assert json.loads(line)["packets"] == 0


def test_a_member_has_a_folder_of_its_own_and_one_that_fails_leaves_the_others_alone(command, tmp_path, toys):
    words = [*toys.tiny_keys, *QUICK, "task=Pendulum-v1", "seed=3", "init=none,''", "steps=50"]
    code, out, err = command("train", "-m", *words)
    assert code == 2
    assert [json.loads(line)["seed"] for line in out.splitlines()] == [3]
    assert sorted(path.name[-2:] for path in (tmp_path / "runs" / "Pendulum-v1").iterdir()) == ["-0", "-1"]
    assert "init=none: no such folder" in err and "Traceback" not in err
    assert f"all runs: mean return {json.loads(out)['return_mean']:.1f} (n=1)\n" in err


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_that_is_stopped_says_how_each_run_and_the_sweep_go_on(tmp_path, toys, launcher):
    fixed = launcher == "joblib"
    words = [*toys.tiny_keys, *QUICK, "steps=100000", "checkpoint.every=500", "task=Pendulum-v1", "seed=1,2"]
    words += [f"hydra/launcher={launcher}", *(["resume=auto", "hydra.sweep.subdir=${seed}"] if fixed else [])]
    command = [sys.executable, "-P", "-m", "configs.commands", "train", "-m", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (begun := {path.parents[1] for path in tmp_path.glob("runs/**/checkpoints/0*")}):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(STOP)
        said = process.communicate()[1]
    assert process.returncode == 128 + STOP
    for run in begun:
        assert re.search(rf"^\S*{run.name}: .*stopped by SIGTERM; go on with: semagram-train resume={run}$", said, re.M)
    rest = "the same command goes on with this sweep" if fixed else "each run that was begun goes on by itself, as said"
    assert said.count(rest) == 1 and "\nsemagram: stopped by SIGTERM\n" in said and "Traceback" not in said


def test_a_sweep_tells_the_mean_return_of_each_setting_over_its_seeds():
    done = [
        (["steps=9", f"noise={noise}", f"seed={seed}"], 10 * seed + (noise == "pink"))
        for noise in ("pink", "white")
        for seed in (1, 2)
    ]
    both = "mean return 16.0, standard deviation 7.1 (n=2)"
    assert averages(done) == [f"noise=pink: {both}", f"noise=white: {both.replace('16', '15')}"]
    assert averages(done[:2]) == [f"all runs: {both}"] and averages([]) == []
    assert averages(done[:1]) == ["all runs: mean return 11.0 (n=1)"]


LAUNCHERS = {"joblib": ("joblib", "hydra.launcher.n_jobs=2"), "submitit_local": ("submitit",), "ray": ("ray",)}
"""Hydra's launchers, each with the package that it needs and its arguments."""
LENGTH = STEPS if find_spec("ray") else "steps=300"  # time enough to kill one of them
CLOCK = {"clock", "run", "train_seconds", "env_steps_per_second", "decisions_per_second"}


@pytest.fixture(scope="module")
def sweep(toys, tmp_path_factory):
    """Sweeps over two tiny runs in a folder of that name; gives their summaries. `act` is done as one has saved."""
    home = tmp_path_factory.mktemp("sweeps")

    def sweep(name, *more, act=lambda: None):
        words = [*toys.tiny_keys, *QUICK, LENGTH, "task=Pendulum-v1", "seed=1,2", "resume=auto", *more]
        words += [f"hydra.sweep.dir={home / name}", "hydra.sweep.subdir=${seed}"]
        with meanwhile(lambda: any((home / name / "2").glob("checkpoints/0*")), act):
            command = [sys.executable, "-P", "-m", "configs.commands", "train", "-m", *words]
            said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
        assert re.search(r"^all runs: mean return .* \(n=2\)$", said, re.M)
        made = [json.loads((home / name / seed / "summary.json").read_text()) for seed in "12"]
        return [{key: value for key, value in each.items() if key not in CLOCK} for each in made]

    return sweep


@pytest.fixture(scope="module")
def alone(sweep):
    """The summaries of runs that were made one after another."""
    return sweep("alone")


def kill_worker():
    """Kill the process that waits for the second run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if found := re.search(rb"configs\.sweep\0(\d+)\0.*seed=2\0.*ray/2'", (folder / "cmdline").read_bytes()):
                os.kill(int(found[1]), signal.SIGKILL)
                return
    pytest.fail("the second run is not there")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_gives_the_same_numbers_wherever_it_runs_even_if_a_worker_is_killed(sweep, alone, name):
    package, *more = LAUNCHERS[name]
    pytest.importorskip(package)
    act = kill_worker if name == "ray" else lambda: None
    assert sweep(name, f"hydra/launcher={name}", *more, act=act) == alone
    assert alone[0]["returns"] != alone[1]["returns"]
