"""Laws of a training run as a process: what it leaves, and that no kill at any moment changes a number."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.run_folder import COLUMNS

SHARED = {
    *("task", "seed", "env_steps", "return_mean", "return_std", "episodes", "train_seconds", "env_steps_per_second"),
    *("gflop_per_decision", "decisions_per_second", "parameters", "device", "versions"),
}
PATIENCE = 600  # seconds


class Trainings:
    """Starts training processes in `home`, all of one config."""

    def __init__(self, home: Path, keys: list[str]):
        self.home, self.keys = home, keys

    def start(self, *arguments):
        """A process."""
        log = open(self.home / "log.txt", "ab")  # noqa: SIM115  the process has its own copy
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "configs.train", *arguments], cwd=self.home, stdout=subprocess.PIPE, stderr=log
            )

    def begin(self, name, *keys):
        """A process that begins the run `name`."""
        return self.start(*self.keys, *keys, f"hydra.run.dir={name}")

    def finish(self, process):
        """Its last line of standard output, once it has ended well."""
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, (self.home / "log.txt").read_text()
        return json.loads(out.decode().splitlines()[-1])

    def metrics(self, name):
        """The bytes of a run's metrics.csv."""
        return (self.home / name / "metrics.csv").read_bytes()

    def saved(self, name):
        """The newest checkpoint's steps, 0 if there is none."""
        return max([int(p.name) for p in (self.home / name / "checkpoints").glob("[0-9]*")], default=0)

    def wait_for(self, process, name, steps):
        """Wait until a checkpoint after `steps` steps is there, or the process has ended."""
        until = time.monotonic() + PATIENCE
        while process.poll() is None and self.saved(name) <= steps:
            assert time.monotonic() < until, "no checkpoint came"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(toys, tmp_path_factory):
    """Trainings on a task of the suite, and one of them, `whole`, that nothing interrupted."""
    keys = [*toys.tiny_keys, "task=pendulum-swingup", "task.max_decisions=30", "steps=1300"]
    trainings = Trainings(tmp_path_factory.mktemp("training"), keys)
    trainings.result = trainings.finish(trainings.begin("whole"))
    return trainings


def test_a_run_leaves_everything(runs):
    folder = runs.home / "whole"
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "curve.png",
        "checkpoints",
    }
    assert json.loads((folder / "summary.json").read_text()) == runs.result
    assert not SHARED - set(runs.result)
    assert (runs.result["task"], runs.result["env_steps"], runs.result["episodes"]) == ("pendulum-swingup", 1300, 2)
    assert len(runs.result["returns"]) == 2
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"000001200", "000001300", "last"}
    rows = runs.metrics("whole").decode().splitlines()
    assert rows[0] == ",".join(COLUMNS)
    table = [dict(zip(COLUMNS, row.split(","), strict=True)) for row in rows[1:]]
    assert [int(row["env_steps"]) for row in table if row["eval_return"]] == [400, 800, 1200, 1300]
    assert [int(row["env_steps"]) for row in table if row["episode_return"]] == list(range(60, 1301, 60))
    assert {row["episode_length"] for row in table if row["episode_return"]} == {"30"}
    assert b"done: " in (runs.home / "log.txt").read_bytes()


def test_killed_at_any_moment_it_goes_on_to_the_same_numbers(runs):
    moments = random.Random(1)
    process, kills = runs.begin("killed"), 0
    while True:
        before = runs.saved("killed")
        runs.wait_for(process, "killed", before)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL or kills == 3:
            break
        kills += 1
        process = runs.start("resume=killed")
    result = runs.finish(runs.start("resume=killed"))
    assert kills
    assert runs.metrics("killed") == runs.metrics("whole")
    changing = ("train_seconds", "env_steps_per_second", "decisions_per_second", "run")
    assert {k: v for k, v in result.items() if k not in changing} == {
        k: v for k, v in runs.result.items() if k not in changing
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_and_says_how_to_go_on(runs, number):
    name = number.name
    process = runs.begin(name)
    runs.wait_for(process, name, 0)
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, b"")
    assert runs.saved(name) % 150 or runs.saved(name) > 150
    said = (runs.home / "log.txt").read_text()
    assert f"stopped by {name}; go on with: semagram-train resume=" in said
    assert said.rstrip().endswith(name)
    runs.finish(runs.start(f"resume={name}"))
    assert runs.metrics(name) == runs.metrics("whole")


def test_side_by_side_environments_whose_episodes_end_together_are_all_recorded(toys, tmp_path):
    """A checkpoint falls on the step in which both episodes end; neither's row may get lost."""
    keys = [*toys.tiny_keys, "task=gym", "task.id=Pendulum-v1", "task.max_decisions=75", "envs=2", "steps=450"]
    runs = Trainings(tmp_path, [*keys, "evaluation.every=0"])
    whole = runs.begin("whole")
    process = runs.begin("killed")
    runs.wait_for(process, "killed", 0)
    process.kill()
    process.communicate()
    assert runs.saved("killed") < 450
    runs.finish(runs.start("resume=killed"))
    runs.finish(whole)
    assert runs.metrics("killed") == runs.metrics("whole")
    ends = [line.split(",")[0] for line in runs.metrics("whole").decode().splitlines()[1:-1]]
    assert ends == ["150", "150", "300", "300", "450", "450"]


def test_going_on_with_more_steps_is_as_if_they_had_been_asked_for_at_once(runs):
    runs.finish(runs.begin("short", "steps=600"))
    assert runs.metrics("short") != runs.metrics("whole")
    runs.finish(runs.start("resume=short", "steps=1300"))
    assert runs.metrics("short") == runs.metrics("whole")
