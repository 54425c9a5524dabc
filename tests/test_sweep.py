"""Laws of a sweep and of the benchmark, which is one: what dies goes on by the same command, and nothing runs twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envs.benchmark.results import read

TASKS = ("Pendulum-v1", "InvertedPendulum-v5")
QUICK = ("evaluation.every=0", "evaluation.episodes=1", "learning.updates_per_token=0.02", "task.max_control_steps=50")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="runs follow parents on Linux")]


@pytest.fixture
def bench(toys, tmp_path):
    """Begins a tiny benchmark of two tasks."""
    keys = [*toys.tiny_keys, *QUICK, f"tasks=[{','.join(TASKS)}]", "seeds=1", "out=out", "workers=1"]

    def begin(*more):
        words = [sys.executable, "-P", "-m", "configs.commands", "bench", *keys, *more]
        return subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


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
        if place == home and (run := re.search(r"configs\.sweep.*out/([\w-]+)'", line)):
            pids[run[1]] = int(folder.name)
    return pids


def wait(process, happens):
    """Wait until something happens, while the process lives."""
    until = time.monotonic() + 600
    while not happens():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_benchmark_takes_its_runs_along_when_it_ends_and_goes_on_by_the_same_command(bench, tmp_path):
    first, second = (tmp_path / "out" / f"{task}-seed1" for task in TASKS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = len([*first.glob("checkpoints/0*")]) and max(p.name for p in first.glob("checkpoints/0*"))
        process = bench("steps=1000000")
        wait(process, lambda before=before: any(p.name > str(before) for p in first.glob("checkpoints/0*")))
        process.send_signal(number)
        code, made, _ = ended(process)
        assert (code, made) == (-number if number == signal.SIGKILL else 128 + number, "")
        wait(None, lambda: not members(tmp_path))
        assert (first / "log.txt").read_text().rstrip().split("\n")[-1].startswith("stopped by SIGTERM")
    steps = f"steps={int(max(p.name for p in first.glob('checkpoints/0*'))) + 600}"
    process = bench(steps)
    wait(process, lambda: "going on from" in (first / "log.txt").read_text().rpartition("stopped by")[2])
    os.kill(members(tmp_path)[first.name], signal.SIGKILL)
    code, made, _ = ended(process)
    assert (code, made["tasks"], [*made["failed"]]) == (1, [TASKS[1]], [first.name])
    before = {path: path.stat().st_mtime_ns for path in second.rglob("*") if path.name != "log.txt"}
    code, made, _ = ended(bench(steps))
    assert (code, made["failed"], made["tasks"], made["agent"]) == (0, {}, sorted(TASKS), "out")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    results = read(tmp_path / "out")
    assert read(tmp_path / "out" / "results.csv") == sorted(results, key=lambda r: TASKS.index(r.task))
    assert made["return_mean"] == {r.task: round(r.return_mean, 2) for r in results}
    assert {"table.md", "curves.png", "results.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    code, made, told = ended(bench(steps, "learning.batch_size=9"))
    assert (code, made, told.count("\n")) == (2, "", 1)
    assert re.search(r"learning\.batch_size=9: .*-seed1 was begun with 8", told)


def test_a_member_has_a_folder_of_its_own_and_one_that_fails_leaves_the_others_alone(tmp_path, toys):
    words = [*toys.tiny_keys, *QUICK, "task=cartpole-swingup", "seed=-2,3", "steps=100"]
    command = [sys.executable, "-P", "-m", "configs.commands", "train", "-m", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [3]
    assert sorted(path.name[-2:] for path in (tmp_path / "runs" / "cartpole-swingup").iterdir()) == ["-0", "-1"]
    assert "seed=-2: from 0 to" in done.stderr and "Traceback" not in done.stderr
