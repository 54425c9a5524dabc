"""Laws of the benchmark: a dead worker is tried again, a dead benchmark goes on, and nothing is done twice."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from configs.arguments import quoted
from configs.bench import tabulate
from configs.schema import BenchConfig, TrainConfig
from configs.strict import ConfigError, build
from configs.suites import benchmark, pool, report
from configs.suites.benchmark import Benchmark, settings
from configs.suites.jobs import Job
from configs.suites.pool import Pool
from configs.suites.progress import Screen, duration
from envs.benchmark.block import BlockError, block_is_current
from envs.benchmark.results import Result, append, read
from envs.benchmark.suites import SUITES
from envs.suite import NAMES
from policies.storage.folders import FolderError
from policies.storage.format import FORMAT
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig, VisionConfig

HOME = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds
TINY = ("Pendulum-v1", "InvertedPendulum-v5")
SMALL = BenchConfig(tasks=["Pendulum-v1"], seeds=1, steps=500)


def result(task, seed, mean, agent="semagram", env_steps=100_000):
    """A finished run."""
    numbers = (env_steps, mean, 0.0, 1, mean - 10, 600.0, 166.0, 4.0, 100.0, 1)
    return Result(task, seed, agent, *numbers, "a CPU", "abc", (mean,))


def finish(job, summary):
    """Leave in a job's folder what its worker would."""
    job.folder.mkdir(exist_ok=True)
    (job.folder / "summary.json").write_text(json.dumps(asdict(summary)))


@pytest.fixture(scope="module")
def keys(toys, tmp_path_factory):
    """The keys of a tiny benchmark of two tasks."""
    return [*toys.tiny_keys, f"tasks=[{','.join(TINY)}]", "seeds=1", "steps=500", "workers=2", "evaluation.every=0"]


class Silent(Screen):
    """A screen that shows nothing but keeps what is said."""

    def __init__(self):
        super().__init__(io.StringIO())
        self.said = []

    def show(self, workers, waiting):
        """Nothing to see."""

    def say(self, text):
        """Keep it."""
        self.said.append(text)


@pytest.fixture(scope="module")
def done(keys, tmp_path_factory):
    """A benchmark whose first worker was killed once it had a checkpoint: its folder, its process, its words."""
    home = tmp_path_factory.mktemp("bench")
    log = home / "log.txt"
    killed = []
    with open(log, "wb") as file:
        process = subprocess.Popen(command(keys), cwd=home, stdout=subprocess.PIPE, stderr=file)
    first = home / "out" / "Pendulum-v1-seed1"
    wait_for(process, lambda: saved(first))
    for worker in workers(home):
        if f"{first.name}" in worker[1]:
            killed.append(worker[0])
            subprocess.run(["kill", "-9", str(worker[0])], check=True)
    out, _ = process.communicate(timeout=PATIENCE)
    assert len(killed) == 1
    return home, process.returncode, json.loads(out.decode().splitlines()[-1]), log.read_text()


def command(keys, *more):
    """The benchmark's command line."""
    return [sys.executable, "-m", "configs.bench", *keys, "out=out", *more]


def workers(home):
    """Process ids and command lines of the workers under `home`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, place = (folder / "cmdline").read_bytes().decode(), (folder / "cwd").readlink()
        except OSError:
            continue
        if "configs.suites.worker" in line and place == home:
            found.append((int(folder.name), line))
    return found


def saved(run):
    """The newest checkpoint's steps of a run folder, 0 without one."""
    return max([int(p.name) for p in (run / "checkpoints").glob("[0-9]*")], default=0)


def wait_for(process, happens):
    """Wait until something happens, while the process lives."""
    until = time.monotonic() + PATIENCE
    while not happens():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_killed_worker_is_tried_again_and_all_is_there_at_the_end(done):
    home, code, result, said = done
    assert code == 0
    assert "Pendulum-v1 seed 1: killed by SIGKILL; trying again" in said
    assert "going on from" in (home / "out" / "Pendulum-v1-seed1" / "log.txt").read_text()
    assert {p.name for p in (home / "out").iterdir()} == {
        *("results.csv", "table.md", "curves.png", "settings.json"),
        *(f"{task}-seed1" for task in TINY),
    }
    results = read(home / "out" / "results.csv")
    assert {(r.task, r.seed, r.env_steps, r.agent) for r in results} == {(task, 1, 500, "semagram") for task in TINY}
    assert (result["suite"], result["agent"], result["seeds"], result["failed"]) == ("dmc-quick", "semagram", 1, {})
    assert result["tasks"] == sorted(TINY)
    assert result["return_mean"] == {r.task: round(r.return_mean, 2) for r in results}
    assert result["at_least_published"] == [0, 0]
    assert "Pendulum-v1" in (home / "out" / "table.md").read_text()


def test_a_finished_benchmark_does_nothing_again(done, keys):
    home, _, result, _ = done
    before = {p: p.stat().st_mtime_ns for p in (home / "out").rglob("*/*") if p.is_file()}
    csv = (home / "out" / "results.csv").read_bytes()
    again = subprocess.run(command(keys), cwd=home, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout.splitlines()[-1]) == result
    assert "2 of 2 runs are done already" in again.stderr
    assert (home / "out" / "results.csv").read_bytes() == csv
    assert {p: p.stat().st_mtime_ns for p in (home / "out").rglob("*/*") if p.is_file()} == before


def test_killed_or_told_to_stop_it_takes_its_workers_along_and_goes_on(done, keys, tmp_path):
    """Killed in the middle, begun again at once, told to stop, begun again: the numbers are those of the other one."""
    logs = tmp_path / "log.txt"
    runs = [tmp_path / "out" / f"{task}-seed1" for task in TINY]

    def start():
        with open(logs, "ab") as file:
            return subprocess.Popen(command(keys), cwd=tmp_path, stdout=subprocess.PIPE, stderr=file)

    process = start()

    def logged(words):
        return any(words in log.read_text() for log in tmp_path.glob("out/*/log.txt"))

    wait_for(process, lambda: any(map(saved, runs)))
    process.kill()
    process.communicate()
    process = start()
    wait_for(process, lambda: logged("going on from"))
    assert logged("stopped by SIGTERM")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, b"")
    assert not workers(tmp_path)
    assert logs.read_text().endswith("stopped; the same command goes on from here\n")
    process = start()
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    home, _, result, _ = done
    assert json.loads(out.decode().splitlines()[-1])["return_mean"] == result["return_mean"]
    for run in runs:
        assert (run / "metrics.csv").read_bytes() == (home / "out" / run.name / "metrics.csv").read_bytes()


def test_other_settings_or_fewer_steps_do_not_mix_with_what_is_there(done, keys):
    home = done[0]
    for more, said in ((("learning.batch=9",), "other settings of learning"), (("steps=100",), "begun with 500")):
        refused = subprocess.run(command(keys, *more), cwd=home, capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert said in refused.stderr


def test_workers_are_drawn_in_their_places_on_a_terminal_and_cut_to_its_width(teletype, tmp_path):
    worker = pool.Worker(Job("a", "cartpole-swingup-sparse", 1, 100, tmp_path / "w"), None)
    with teletype.terminal(columns=30) as (stream, close):
        screen = Screen(stream)
        for waiting in (2, 1, 0):
            screen.shown_at -= 1.0
            screen.show([worker], waiting)
            screen.show([worker], 9)  # too soon
        screen.say("done")
        screen.shown_at -= 1.0
        screen.show([worker], 1)
        written = close()
    lines = teletype.shown(written, columns=30)
    assert "9 more" not in written
    assert lines == ["done", "cartpole-swingup-sparse seed 1", "1 more waiting"]


class Fake:
    """A process that ends with a code of its own."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        """Its code, once it has ended."""
        return self.returncode

    def terminate(self):
        """Nothing to end."""

    def wait(self):
        """Nothing to wait for."""


def test_a_worker_gets_three_tries_but_one_for_a_mistake_and_the_rest_goes_on(monkeypatch, tmp_path):
    codes = {"good": [0], "bad": [1, -9, 1, 0], "wrong": [2, 0], "unlucky": [-9, -9, 0]}
    started = []

    def start(job, threads, keep):
        started.append(job.task)
        job.folder.mkdir(exist_ok=True)
        (job.folder / "log.txt").write_text("first\nlast\n")
        return pool.Worker(job, Fake(codes[job.task].pop(0)))

    monkeypatch.setattr(pool.Worker, "start", start)
    monkeypatch.setattr(pool, "POLL", 0.0)
    screen = Silent()
    jobs = [Job("a", name, 1, 100, tmp_path / name) for name in codes]
    ended = {job.task: why for job, why in Pool(2, screen).run(jobs)}
    assert ended == {"good": "", "bad": "ended with code 1: last", "wrong": "ended with code 2: last", "unlucky": ""}
    assert {name: started.count(name) for name in codes} == {"good": 1, "bad": 3, "wrong": 1, "unlucky": 3}
    assert len(screen.said) == 4


FULL_ONCE = """
import errno, os, sys
import configs.bench as bench
def tabulate(config):
    if not os.path.exists("tried"):
        open("tried", "w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint")
    return {}
bench.tabulate = tabulate
sys.argv = ["semagram-bench", "table=a.csv"]
bench.main()
"""


def test_a_worker_whose_disk_was_full_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "command", lambda job: [sys.executable, "-c", FULL_ONCE])
    screen = Silent()
    job = Job("a", "full", 1, 100, tmp_path / "full")
    assert [*Pool(1, screen).run([job])] == [(job, "")]
    said = "ended with code 1: semagram: [Errno 28] No space left on device: 'checkpoint'"
    assert screen.said == [f"full seed 1: {said}; trying again"]


def test_every_task_gets_its_first_seed_before_any_gets_its_second(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Screen", Silent)
    jobs = Benchmark.begin(BenchConfig(suite="dmc-100k"), tmp_path).jobs()
    tasks = SUITES["dmc-100k"].tasks
    assert [(job.task, job.seed) for job in jobs] == [(task, seed) for seed in (1, 2, 3) for task in tasks]
    assert {job.steps for job in jobs} == {100_000}
    assert len({job.folder for job in jobs}) == 24


def test_two_benchmarks_do_not_share_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Screen", Silent)
    monkeypatch.setattr(benchmark, "PATIENCE", 1)
    first = Benchmark.begin(SMALL, tmp_path)
    with pytest.raises(ConfigError, match="another semagram-bench"):
        Benchmark.begin(SMALL, tmp_path)
    os.close(first.lock)
    os.close(Benchmark.begin(SMALL, tmp_path).lock)


def test_a_result_is_of_the_steps_asked_for_and_of_the_code_that_ran(monkeypatch, tmp_path):
    """Three environments end a step late; the commit may have changed since the run began."""
    monkeypatch.setattr(benchmark, "Screen", Silent)
    bench = Benchmark.begin(replace(SMALL, envs=3), tmp_path)
    (job,) = bench.jobs()
    summary = asdict(result("Pendulum-v1", 1, 5.0)) | {"env_steps": 501, "commit": "then"}
    job.folder.mkdir()
    (job.folder / "summary.json").write_text(json.dumps(summary))
    assert bench.run()["return_mean"] == {"Pendulum-v1": 5.0}
    (found,) = read(tmp_path / benchmark.RESULTS)
    assert (found.env_steps, found.commit) == (500, "then")
    assert bench.run()["return_mean"] == {"Pendulum-v1": 5.0}
    os.close(bench.lock)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b'{"env_steps": 500}', "'device'"),
        (b'{"env_steps": 5', "Expecting"),
        (b"\xff", "'utf-8' codec"),
        (
            json.dumps(asdict(result("Pendulum-v1", 1, 5.0)) | {"env_steps": 500, "return_mean": math.nan}).encode(),
            "return_mean=nan: a number, not NaN",
        ),
        (
            json.dumps(asdict(result("Pendulum-v1", 1, 5.0)) | {"env_steps": 500, "parameters": 5.5}).encode(),
            "parameters=5.5: a whole number",
        ),
    ],
)
def test_a_damaged_summary_is_named_and_the_other_runs_go_on(monkeypatch, tmp_path, damaged, said):
    """Whether it is there at the start or is left by the worker that ended."""
    monkeypatch.setattr(benchmark, "Screen", Silent)
    bench = Benchmark.begin(replace(SMALL, seeds=3), tmp_path)
    jobs = bench.jobs()

    def damage(job):
        job.folder.mkdir()
        (job.folder / "summary.json").write_bytes(damaged)

    def work(pool, todo):
        assert todo == jobs[1:]
        damage(todo[0])
        finish(todo[1], result("Pendulum-v1", 3, 5.0, env_steps=500))
        yield from ((job, "") for job in todo)

    damage(jobs[0])
    monkeypatch.setattr(Pool, "run", work)
    made = bench.run()
    os.close(bench.lock)
    assert made["return_mean"] == {"Pendulum-v1": 5.0}
    assert [*made["failed"]] == [job.folder.name for job in jobs[:2]]
    for job in jobs[:2]:
        why = made["failed"][job.folder.name]
        assert f"{job.name}: {why}" in bench.screen.said
        assert why.startswith(f"{job.folder / 'summary.json'}: damaged, not the summary of a run ({said}")


def fixed(config):
    """What is passed on of the keys that are fixed when a run begins."""
    return [key for key in settings(config) if re.split("[.=]", key)[0] not in benchmark.FREE]


def test_what_is_passed_on_is_what_differs_from_the_defaults_and_all_that_is_free(tmp_path):
    assert fixed(BenchConfig(video=True)) == []
    changed = BenchConfig(
        learning=LearningConfig(batch=7, rho=0.25), planner=PlannerConfig(carry=0.25), compile="false", seed_steps=9
    )
    assert fixed(changed) == ["learning.batch=7", "learning.rho=0.25", "planner.carry=0.25", "seed_steps=9"]
    free = [key for key in settings(changed) if key not in fixed(changed)]
    assert {"device='cpu'", "threads=1", "compile='false'", "video=false", "evaluation.episodes=10"} < set(free)
    (tmp_path / "checkpoints" / "000000100").mkdir(parents=True)
    begun = Job("a", "walker-walk", 1, 100, tmp_path, tuple(settings(changed)))
    assert begun.command()[5:] == ["steps=100", f"resume={quoted(tmp_path)}", *free]


def test_every_key_of_training_is_taken_but_those_that_the_benchmark_sets_itself():
    known, taken = ({f.name for f in fields(cls)} for cls in (TrainConfig, BenchConfig))
    assert known - taken == {"task", "randomise", "seed", "resume"}
    assert set(benchmark.FIXED) | set(benchmark.FREE) == (known & taken) - {"steps"}


def test_what_is_perceived_is_passed_on():
    seeing = fixed(BenchConfig(senses=("state", "images.main"), image_size=32))
    assert seeing == ['senses=["state", "images.main"]', "image_size=32"]


def test_a_folder_begun_with_other_settings_or_of_another_format_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Screen", Silent)
    os.close(Benchmark.begin(SMALL, tmp_path).lock)
    path = tmp_path / benchmark.SETTINGS
    before = path.read_bytes()
    for part, config in (
        ("learning", replace(SMALL, learning=LearningConfig(expert=1.0))),
        ("model", replace(SMALL, model=ModelConfig(vision=VisionConfig(patch=4)))),
        ("seed_steps", replace(SMALL, seed_steps=9)),
    ):
        with pytest.raises(ConfigError, match=f"other settings of {part}"):
            Benchmark.begin(config, tmp_path)
        assert path.read_bytes() == before
    os.close(Benchmark.begin(SMALL, tmp_path).lock)
    for older in ({"format": FORMAT + 1}, {"format": 0}):
        path.write_text(json.dumps(json.loads(before) | older | {"haste": 1}))
        with pytest.raises(FolderError, match=rf"^{path}: of format {older['format']}, this Semagram reads {FORMAT}; "):
            Benchmark.begin(SMALL, tmp_path)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[1]", b"{}"])
def test_damaged_settings_are_named(monkeypatch, tmp_path, text):
    monkeypatch.setattr(benchmark, "Screen", Silent)
    path = tmp_path / benchmark.SETTINGS
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"^{path}: damaged, not .*$"):
        Benchmark.begin(SMALL, tmp_path)
    assert path.read_bytes() == text


def test_suites_are_of_known_tasks():
    for suite in SUITES.values():
        assert not set(suite.tasks) - set(NAMES)
        assert len(set(suite.tasks)) == len(suite.tasks)


def test_durations_are_written_for_people():
    assert [*map(duration, (5, 59, 90, 3600, 9000))] == ["5 s", "59 s", "2 min", "1.0 h", "2.5 h"]


@pytest.fixture
def table(tmp_path):
    """Writes a results file."""

    def write(name, *results):
        for item in results:
            append(tmp_path / name, item)
        return str(tmp_path / name)

    return write


def test_the_readme_is_made_from_a_results_file(table, tmp_path, capsys):
    path = table("results.csv", result("walker-walk", 1, 970.0), result("hopper-stand", 1, 20.0))
    readme = tmp_path / "README.md"
    readme.write_text("# Head\n<!-- results:begin -->\n<!-- results:end -->\ntail")
    config = build(BenchConfig, asdict(BenchConfig()) | {"table": path, "readme": str(readme)})
    made = tabulate(config)
    assert (made["at_least_published"], made["iqm"]) == ([1, 2], 0.495)
    assert "**970**" in readme.read_text()
    assert block_is_current(readme, report.BLOCK, report.document(read(path)))
    tabulate(config)
    assert capsys.readouterr().err.splitlines() == [f"{readme}: written", f"{readme}: was up to date"]


def test_several_results_files_become_one_comparison(table, capsys):
    ours = table("ours.csv", result("walker-walk", 1, 970.0))
    theirs = table("plain.csv", result("walker-walk", 1, 485.0, "no-planner"))
    made = tabulate(replace(BenchConfig(), table=[theirs, ours], agent="no-planner"))
    assert (made["agent"], made["iqm"]) == ("no-planner", 0.485)
    shown = capsys.readouterr().err
    assert "| no-planner | 485 | 0.485 | 0.50 |" in shown
    assert shown.index("**semagram**") < shown.index("**no-planner**")
    assert tabulate(replace(BenchConfig(), table=theirs))["agent"] == "no-planner"
    with pytest.raises(ConfigError, match=rf"^agent=nobody: not in {theirs}, which have no-planner$"):
        tabulate(replace(BenchConfig(), table=theirs, agent="nobody"))


def test_a_table_is_of_results_of_ours_at_one_number_of_steps_each(table, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\nkept\n<!-- results:end -->")
    theirs = table("theirs.csv", result("walker-walk", 1, 970.0, "tdmpc2"))
    short = table("short.csv", result("walker-walk", 1, 100.0, env_steps=20_000), result("walker-run", 1, 1.0))
    long = table("long.csv", result("walker-walk", 1, 900.0, env_steps=50_000))
    again = table("again.csv", result("walker-walk", 2, 5.0), result("walker-run", 1, 2.0))
    mixed = "semagram on walker-walk after 20000 and 50000 steps; keep the lines of one"
    twice = "more than one has semagram on walker-run, seed 1; run one of them as agent=<another name>"
    wrong = (([theirs], "no results of ours"), ([short, long], mixed), ([short, theirs, again], twice))
    for paths, said in wrong:
        with pytest.raises(ConfigError, match=f"^{re.escape(f'table={", ".join(paths)}: {said}')}$"):
            tabulate(replace(BenchConfig(), table=paths, readme=str(readme)))
    assert "kept" in readme.read_text()


def test_a_lengthened_benchmark_reports_the_longer_runs_only(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Screen", Silent)
    for mean, steps in ((1.0, 500), (9.0, 800)):
        bench = Benchmark.begin(replace(SMALL, steps=steps), tmp_path)
        (job,) = bench.jobs()
        finish(job, result("Pendulum-v1", 1, mean, env_steps=steps))
        made = bench.run()
        os.close(bench.lock)
        assert (made["tasks"], made["return_mean"]) == (["Pendulum-v1"], {"Pendulum-v1": mean})
    assert [found.env_steps for found in read(tmp_path / benchmark.RESULTS)] == [500, 800]


def test_the_readme_shows_the_committed_results():
    """Fails when docs/results/dmc-100k.csv has changed and the README's table has not."""
    path, readme = HOME / "docs" / "results" / "dmc-100k.csv", HOME / "README.md"
    assert path.exists()
    command = "semagram-bench table=docs/results/dmc-100k.csv readme=README.md"
    try:
        current = block_is_current(readme, report.BLOCK, report.document(read(path)))
    except BlockError as error:
        pytest.fail(f"{error}: put them where the table belongs, then run {command}")
    assert current, f"README.md's table is stale; run {command}"
