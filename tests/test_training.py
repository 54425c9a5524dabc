"""Laws of a training run as a process: what it leaves, and that no kill at any moment changes a number."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs.command import composed
from configs.reporting import Ended
from configs.runs.run_folder import COLUMNS
from configs.runs.training import Training
from envs.make import make_vector
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost

SHARED = {
    *("task", "seed", "env_steps", "return_mean", "return_std", "episodes", "train_seconds", "env_steps_per_second"),
    *("gflop_per_control_step", "decisions_per_second", "parameters", "device", "versions"),
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

    def wait_for_rows(self, process, name, lines):
        """Wait until the metrics have so many lines, or the process has ended."""
        until, path = time.monotonic() + PATIENCE, self.home / name / "metrics.csv"
        while process.poll() is None and not (path.exists() and self.metrics(name).count(b"\n") >= lines):
            assert time.monotonic() < until, "no row came"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(toys, tmp_path_factory):
    """Trainings on a task of the suite, and one of them, `whole`, that nothing interrupts, under way."""
    keys = [*toys.tiny_keys, "task=pendulum-swingup", "task.max_control_steps=30", "steps=900"]
    trainings = Trainings(tmp_path_factory.mktemp("training"), keys)
    trainings.whole = trainings.begin("whole")
    yield trainings
    trainings.whole.kill()
    trainings.whole.communicate()


@pytest.fixture(scope="module")
def whole(runs):
    """The result of that one, and its metrics.csv."""
    return runs.finish(runs.whole), runs.metrics("whole")


def keys_of(*texts):
    """The keys of a run, as its command makes them of the command line."""
    return composed("train", [*texts])


def test_killed_at_any_moment_it_goes_on_to_the_same_numbers(runs, request):
    moments = random.Random(1)
    process = runs.begin("killed")
    for _ in range(2):
        runs.wait_for(process, "killed", runs.saved("killed"))
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        process = runs.start("resume=killed")
    result = runs.finish(process)
    expected, metrics = request.getfixturevalue("whole")
    assert runs.metrics("killed") == metrics
    changing = ("train_seconds", "env_steps_per_second", "decisions_per_second", "run")
    assert {k: v for k, v in result.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }


def test_told_to_stop_it_saves_and_says_how_to_go_on(runs, whole):
    process = runs.begin("stopped", "checkpoint.every=100000")
    runs.wait_for_rows(process, "stopped", 3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, b"")
    assert 120 <= runs.saved("stopped") < 900
    said = (runs.home / "log.txt").read_text()
    assert "\nstopping at the end of this step, with a checkpoint; " in said
    assert "stopped by SIGTERM; go on with: semagram-train resume=" in said
    assert said.rstrip().endswith("stopped")
    runs.finish(runs.start("resume=stopped"))
    assert runs.metrics("stopped") == whole[1]


@pytest.mark.parametrize("frames", [1, 3])
def test_told_to_stop_during_its_film_it_stops_at_the_next_frame_and_goes_on(toys, tmp_path, monkeypatch, frames):
    keys = keys_of(
        *(key for key in toys.tiny_keys if key != "video=false"),
        *("task=gym", "task.id=Pendulum-v1", "task.max_control_steps=30", "steps=90", "evaluation.every=0"),
    )
    monkeypatch.setattr("configs.runs.assembly.make_vector", partial(make_vector, processes=False))
    drawn, run = [], tmp_path / "run"

    def draw(env, height, width):
        drawn.append(env)
        if len(drawn) == frames:
            os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr("configs.runs.films.frame", draw)
    with pytest.raises(SystemExit) as end:
        Training.begin(keys, run).run()
    assert (end.value.code, len(drawn)) == (143, frames)
    left = {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "curve.png",
        "checkpoints",
        "plan.svg",
        "plan.png",
        "plan.json",
    }
    assert {p.name for p in run.iterdir()} == left
    metrics = (run / "metrics.csv").read_bytes()
    Training.begin(keys | {"resume": str(run)}, tmp_path).run()
    assert {p.name for p in run.iterdir()} == left | {"rollout.mp4"}
    assert len(drawn) == frames + 31
    assert (run / "metrics.csv").read_bytes() == metrics


def test_a_run_leaves_everything(runs, whole):
    folder, (result, metrics) = runs.home / "whole", whole
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "curve.png",
        "checkpoints",
    }
    assert json.loads((folder / "summary.json").read_text()) == result
    assert not SHARED - set(result)
    assert (result["task"], result["env_steps"], result["episodes"]) == ("pendulum-swingup", 900, 2)
    assert len(result["returns"]) == 2
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"000000750", "000000900", "last"}
    rows = metrics.decode().splitlines()
    assert rows[0] == ",".join(COLUMNS)
    table = [dict(zip(COLUMNS, row.split(","), strict=True)) for row in rows[1:]]
    assert [int(row["env_steps"]) for row in table if row["eval_return"]] == [400, 800, 900]
    assert [int(row["env_steps"]) for row in table if row["episode_return"]] == list(range(60, 901, 60))
    assert {row["episode_length"] for row in table if row["episode_return"]} == {"30"}
    assert b"done: " in (runs.home / "log.txt").read_bytes()


@pytest.mark.parametrize(("steps", "learned"), [(50, False), (62, True)])
def test_a_run_that_ends_among_its_random_steps_says_so(toys, tmp_path, monkeypatch, capsys, steps, learned):
    tiny = *toys.tiny_keys, "task=gym", "task.id=Pendulum-v1", f"steps={steps}", "evaluation.every=0", "video=false"
    monkeypatch.setattr("configs.runs.assembly.make_vector", partial(make_vector, processes=False))
    result = Training.begin(keys_of(*tiny), tmp_path / "run").run()
    said = "nothing was learned: the first 60 steps (seed_steps=60) are random" in capsys.readouterr().err
    assert (said, result["updates"] > 0) == (not learned, learned)


class Power(BaseException):
    """The current failed."""


@pytest.mark.parametrize("save", [1, 2])
def test_episodes_that_end_together_are_all_recorded(toys, tmp_path, monkeypatch, save):
    """A checkpoint falls on the step in which both episodes end; neither's row may get lost."""
    keys = keys_of(
        *(*toys.tiny_keys, "task=gym", "task.id=Pendulum-v1", "task.max_control_steps=75", "envs=2"),
        *("steps=450", "evaluation.every=0"),
    )
    monkeypatch.setattr("configs.runs.assembly.make_vector", partial(make_vector, processes=False))
    if save == 1:
        Training.begin(keys, tmp_path / "whole").run()
        rows = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows[1:-1]] == ["150", "150", "300", "300", "450", "450"]
    left, real = [save], Training._save

    def failing(training):
        real(training)
        left[0] -= 1
        if not left[0]:
            raise Power

    monkeypatch.setattr(Training, "_save", failing)
    with pytest.raises(Power):
        Training.begin(keys, tmp_path / "killed").run()
    monkeypatch.setattr(Training, "_save", real)
    Training.begin(keys | {"resume": str(tmp_path / "killed")}, tmp_path).run()
    rows = (tmp_path / "killed" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:-1]] == ["150", "150", "300", "300", "450", "450"]


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (EnvironmentLost("it is gone"), Ended, r"^it is gone; go on with: semagram-train resume=.*run$"),
        (
            EnvironmentFault("it is nan"),
            EnvironmentFault,
            "^it is nan; going on comes to the same point: take another seed=",
        ),
    ],
)
def test_a_run_that_its_environments_end_says_how_to_go_on_and_leaves_the_folder(
    toys, tmp_path, monkeypatch, fault, kind, said
):
    def fails(*_):
        raise fault

    keys = keys_of(*toys.tiny_keys, "task=gym", "task.id=Pendulum-v1", "steps=400", "evaluation.every=0")
    run = Training.begin(keys, tmp_path / "run")
    monkeypatch.setattr(type(run.parts.env), "close_extras", fails)
    real = Training._save
    monkeypatch.setattr(
        Training, "_save", lambda run: (real(run), monkeypatch.setattr(run.parts.trainer, "step", fails))
    )
    with pytest.raises(type(fault)) as caught:
        run.run()
    assert caught.value is fault and isinstance(fault.__context__, kind)
    with pytest.raises(kind, match=said):
        raise fault.__context__
    os.close(run.folder.take())
    monkeypatch.undo()
    run.parts.close()


def test_going_on_with_more_steps_is_as_if_they_had_been_asked_for_at_once(runs, whole, tmp_path):
    Training.begin(keys_of(*runs.keys, "steps=500"), tmp_path / "short").run()
    assert (tmp_path / "short" / "metrics.csv").read_bytes() != whole[1]
    more = keys_of(f"resume='{tmp_path / 'short'}'", "steps=900")
    Training.begin(more, tmp_path, {"resume", "steps"}).run()
    assert (tmp_path / "short" / "metrics.csv").read_bytes() == whole[1]


def test_what_explores_searches_in_full_and_what_is_judged_acts_by_the_averaged_weights(toys, tmp_path):
    planning = ("planner.anchor=2", "planner.deadline_ms=9")
    keys = keys_of(*toys.tiny_keys, "task=gym", "task.id=Pendulum-v1", *planning, "envs=1")
    parts = Training.begin(keys, tmp_path / "run").parts
    try:
        exploring, judged = parts.trainer.agent, parts.evaluator(True, 0)
        search = [agent.planner.config for agent in (exploring, judged)]
        assert [config.anchor for config in search] == [0, 2]
        assert [config.deadline_ms for config in search] == [0, 9]  # what is learned does not depend on the clock
        assert (exploring.noise is not None, judged.noise is not None) == (True, False)
        assert exploring.model is exploring.planner.model is parts.learner.model
        assert judged.model is judged.planner.model is parts.learner.acting
    finally:
        parts.close()
