"""Laws of a training run: what it leaves; that no kill at any moment changes a number; on what it goes on, and how."""

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from configs.command import composed
from configs.machine import cores
from configs.runs.run_folder import COLUMNS, RunFolder, found
from configs.runs.training import Training
from policies.storage.folders import FORMAT
from robot.safety.stops import handled

SHARED = {
    *("task", "seed", "env_steps", "return_mean", "return_std", "episodes", "train_seconds", "env_steps_per_second"),
    *("gflop_per_control_step", "decisions_per_second", "parameters", "device", "versions"),
}
CLOCK = {"clock", "train_seconds", "env_steps_per_second", "decisions_per_second", "run"}
PATIENCE = 600  # seconds
SHORT = ("task=pendulum-swingup", "task.max_control_steps=30", "steps=360", "evaluation.episodes=2", "seed_steps=40")
SHORT += ("learning.updates_per_token=0.25", "evaluation.every=200", "checkpoint.every=100")
PENDULUM = ("task=gym", "task.id=Pendulum-v1", "evaluation.every=0", "evaluation.episodes=1")


@pytest.fixture(scope="module")
def keys(toys):
    """The arguments of a short run."""
    return [*toys.tiny_keys, *SHORT]


@pytest.fixture(scope="module")
def whole(keys, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("training") / "whole"
    Training.begin(composed("train", keys), folder).run()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "run", symlinks=True)


def start(home, *arguments):
    """A process of semagram-train."""
    words = [sys.executable, "-m", "configs.commands", "train", *arguments]
    with open(home / "log.txt", "ab") as log:
        return subprocess.Popen(words, cwd=home, stdout=subprocess.PIPE, stderr=log)


def wait(process, happens):
    """Wait until something happens, while the process lives."""
    until = time.monotonic() + PATIENCE
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def steps_of(folder, column="episode_return"):
    """The steps of the rows of a run's metrics that have a value in this column; by default, of finished episodes."""
    return [step for step, _ in RunFolder(folder).column(column)]


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_killed_and_stopped_at_any_moment_it_goes_on_to_the_same_numbers(keys, whole, command, tmp_path):
    folder, moments = tmp_path / "run", random.Random(1)
    metrics, checkpoints = folder / "metrics.csv", folder / "checkpoints"
    process = start(tmp_path, *keys, "hydra.run.dir=run")
    wait(process, lambda: any(checkpoints.glob("[0-9]*")))
    time.sleep(moments.uniform(0, 0.2))
    process.kill()
    process.communicate()
    before, over = metrics.stat().st_mtime_ns, threading.Event()

    def stop():
        while metrics.stat().st_mtime_ns == before and not over.is_set():
            time.sleep(0.01)
        over.wait(moments.uniform(0, 0.2))
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    with handled(lambda *_: None, [signal.SIGTERM]):  # by us, should it have ended before
        stopping.start()
        code, out, err = command("train", "resume=run", "checkpoint.every=100000")
        over.set()
        stopping.join()
    if code:  # it had not finished already
        assert (code, out) == (143, "") and "going on from" in err
        assert "\nstopping as soon as all is saved; " in err
        assert "stopped by SIGTERM; go on with: semagram-train resume=" in err
    code, out, err = command("train", "resume=run")
    assert code == 0, err
    result, expected = json.loads(out.splitlines()[-1]), json.loads((whole / "summary.json").read_text())
    assert metrics.read_bytes() == (whole / "metrics.csv").read_bytes()
    assert {k: v for k, v in result.items() if k not in CLOCK} == {k: v for k, v in expected.items() if k not in CLOCK}


def test_going_on_with_more_steps_is_as_if_they_had_been_asked_for_at_once(keys, whole, tmp_path):
    short = tmp_path / "short"
    Training.begin(composed("train", [*keys, "steps=220"]), short).run()
    assert (short / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes()
    more = composed("train", [f"resume='{short}'", "steps=360"])
    Training.begin(more, tmp_path, {"resume", "steps"}).run()
    rows, expected = ((folder / "metrics.csv").read_bytes().splitlines() for folder in (short, whole))
    assert [row for row in rows if not row.startswith(b"220,")] == expected  # but for its evaluation at the end


def test_a_run_leaves_everything(whole):
    assert {p.name for p in whole.iterdir()} == {
        *("config.yaml", "metrics.csv", "timing.csv", "summary.json", "curve.png", "checkpoints")
    }
    result = json.loads((whole / "summary.json").read_text())
    assert not SHARED - set(result)
    assert (result["task"], result["env_steps"], result["episodes"]) == ("pendulum-swingup", 360, 2)
    assert len(result["returns"]) == 2
    assert {p.name for p in (whole / "checkpoints").iterdir()} == {"000000300", "000000360", "last"}
    head, *rows = (whole / "metrics.csv").read_text().splitlines()
    assert head == ",".join(COLUMNS)
    table = [dict(zip(COLUMNS, row.split(","), strict=True)) for row in rows]
    assert [int(row["env_steps"]) for row in table if row["eval_return"]] == [200, 360]
    assert steps_of(whole) == list(range(60, 361, 60))
    assert {row["episode_length"] for row in table if row["episode_return"]} == {"30"}


def test_stopped_during_its_film_it_stops_at_the_next_frame_and_goes_on(toys, tmp_path, monkeypatch, here):
    keys = composed("train", [*toys.tiny_keys, *PENDULUM, "task.max_control_steps=10", "steps=20", "video=true"])
    drawn, run, frames = [], tmp_path / "run", 3

    def draw(env, height, width):
        drawn.append(env)
        if len(drawn) == frames:
            os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr("configs.runs.film.frame", draw)
    with pytest.raises(SystemExit) as end:
        Training.begin(keys, run).run()
    assert (end.value.code, len(drawn)) == (143, frames)
    left = {"config.yaml", "metrics.csv", "timing.csv", "summary.json", "curve.png", "checkpoints"}
    left |= {"plan.svg", "plan.png", "plan.json"}
    assert {p.name for p in run.iterdir()} == left
    metrics = (run / "metrics.csv").read_bytes()
    Training.begin(keys | {"resume": str(run)}, tmp_path).run()
    assert {p.name for p in run.iterdir()} == left | {"rollout.mp4"}
    assert len(drawn) == frames + 11
    assert (run / "metrics.csv").read_bytes() == metrics


@pytest.mark.parametrize(("steps", "learned"), [(50, False), (62, True)])
def test_a_run_that_ends_among_its_random_steps_says_so(toys, tmp_path, capsys, here, steps, learned):
    keys = composed("train", [*toys.tiny_keys, *PENDULUM, f"steps={steps}", "task.max_control_steps=5"])
    result = Training.begin(keys, tmp_path / "run").run()
    warned = "nothing was learned: the first 60 steps (seed_steps=60) are random" in capsys.readouterr().err
    assert (warned, result["updates"] > 0) == (not learned, learned)


class Power(BaseException):
    """The current failed."""


def test_episodes_that_end_together_are_all_recorded(toys, tmp_path, monkeypatch, here):
    """A checkpoint falls on the step in which both episodes end; neither's row may get lost."""
    own = "task.max_control_steps=10", "envs=2", "steps=60", "checkpoint.every=20"
    keys, real = composed("train", [*toys.tiny_keys, *PENDULUM, *own]), Training._save

    def failing(training):
        real(training)
        raise Power

    monkeypatch.setattr(Training, "_save", failing)
    for resume in ("", str(tmp_path / "run")):
        with pytest.raises(Power):
            Training.begin(keys | {"resume": resume}, tmp_path / "run").run()
    monkeypatch.setattr(Training, "_save", real)
    Training.begin(keys | {"resume": str(tmp_path / "run")}, tmp_path).run()
    assert steps_of(tmp_path / "run") == [20, 20, 40, 40, 60, 60]


# Going on: from what its checkpoint holds, or refused in one line with nothing changed.


def contents(folder):
    """Every file's bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def resign(checkpoint, name, data, commit=""):
    """Put `data` in a checkpoint's file and its sum in the manifest, and there, if there is one, the commit."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["versions"] = {"commit": commit} if commit else {}
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / name).write_bytes(data)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def change(checkpoint, name, place, value=None):
    """Set, or without a value remove, a value in a checkpoint's JSON file."""
    saved = node = json.loads((checkpoint / name).read_text())
    *groups, last = place
    for group in groups:
        node = node[group]
    if value is None:
        del node[last]
    else:
        node[last] = value
    resign(checkpoint, name, json.dumps(saved).encode())


@pytest.fixture
def refused(command, tmp_path):
    """Checks that a command refuses a run folder: exit code 2, one line with these words, and nothing changed."""

    def check(run, *words, name="train", arguments=()):
        before, found = contents(run), {*tmp_path.iterdir()}
        code, out, err = command(name, f"{'resume' if name == 'train' else 'checkpoint'}={run}", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert all(word in err for word in words), err
        assert contents(run) == before and {*tmp_path.iterdir()} == found
        os.close(RunFolder(run).take())

    return check


@pytest.mark.parametrize("made", ["", "80c0e67"])
def test_a_checkpoint_that_is_damaged_not_there_or_of_another_format_is_refused_by_both_who_read_it(refused, run, made):
    checkpoint = (run / "checkpoints" / "last").resolve()
    saved, weights = json.loads((checkpoint / "config.json").read_text()), checkpoint / "model.safetensors"
    saved["planner"]["haste"] = saved.pop("discount")  # which is not what ends it
    line = f"{checkpoint}: of format {FORMAT + 3}, this Semagram reads {FORMAT}; train again, or use the"
    whole, other = weights.read_bytes(), json.dumps(saved | {"format": FORMAT + 3}).encode()
    for spoil, words in (
        (lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"!"), "model.safetensors: damaged"),
        (weights.unlink, "model.safetensors: missing"),
        (
            lambda: (weights.write_bytes(whole), resign(checkpoint, "config.json", other, made)),
            f"{line} commit that made it{f' ({made})' if made else ''}\n",
        ),
        (lambda: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").mkdir()), "holds no checkpoint"),
    ):
        spoil()
        for name in ("train", "evaluate"):
            refused(run, words, name=name)


def test_a_config_that_is_not_the_checkpoints_is_refused(refused, run):
    config = run / "config.yaml"
    begun = config.read_text()
    for was, now, line in (
        ("max_control_steps: 30", "max_control_steps: 60", "task.max_control_steps=30, not 60"),
        ("noise: mixed", "noise: white", "noise=mixed, not white"),
    ):
        config.write_text(begun.replace(was, now))
        refused(run, f"{config}: not what ", f" was made with ({line})")
    config.write_text("a: [")
    refused(run, f"{config}: damaged")
    config.unlink()
    refused(run, "not a run folder")


def test_what_was_fixed_at_the_beginning_cannot_change_on_resuming(refused, run):
    for key in ("seed=9", "learning.batch_size=16", "task=walker-walk", "seed_steps=7", "token=line2"):
        refused(run, f"{key.partition('=')[0]}: fixed when this run began", arguments=[key])
    group = "evaluation: a group; on resuming, its keys are given one by one, evaluation.every="
    refused(run, group, arguments=["evaluation={every:5}"])
    refused(run, "hydra.run.dir=: not with resume=", arguments=["hydra.run.dir=elsewhere"])


def test_a_run_of_before_a_setting_was_added_goes_on_and_one_that_disagrees_with_itself_does_not(refused, run):
    checkpoint = (run / "checkpoints" / "last").resolve()
    change(checkpoint, "progress.json", ("config", "plugins"))
    change(checkpoint, "progress.json", ("config", "planner", "algorithm"))
    assert Training.begin({"resume": str(run)}, run).run()["returns"]
    change(checkpoint, "progress.json", ("config", "planner"))
    refused(run, f"{run / 'config.yaml'}: not what {checkpoint} was made with (planner.samples=64, not 8; ")
    change(checkpoint, "progress.json", ("seconds",))
    refused(run, f"semagram: {checkpoint / 'progress.json'}: seconds: missing")


def test_what_this_machine_or_task_is_not_is_refused(refused, run, command):
    checkpoint = run / "checkpoints" / "last"
    change(checkpoint, "progress.json", ("config", "threads"), 100_000)
    refused(run, f"threads=100000: at most {cores()}, the cores granted here")
    change(checkpoint, "config.json", ("task", "name"), "cartpole-balance")
    code, _, err = command("evaluate", f"checkpoint={run}")
    assert (code, err.count("\n")) == (2, 1) and "observation.state has 3 numbers, the task's has 5" in err


def test_a_run_that_is_being_trained_is_left_to_that_and_a_finished_one_is_not_written_over(command, run):
    before = contents(run)
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for name, argument, line in (
        ("train", f"resume={run}", f"{run}: another semagram-train is running there"),
        ("train", f"hydra.run.dir={run}", f"hydra.run.dir={run}: holds a run already; resume={run} goes on with it"),
    ):
        code, out, err = command(name, argument)
        assert (code, out, err.count("\n")) == (2, "", 1) and line in err
    os.close(lock)
    code, out, err = command("evaluate", f"checkpoint={run}", f"hydra.run.dir={run}")
    assert (code, out, err.count("\n")) == (2, "", 1) and f"hydra.run.dir={run}: a run's own folder" in err
    assert contents(run) == before


def test_a_run_goes_on_with_the_config_of_its_newest_checkpoint_once_the_folder_is_ours(
    command, run, tmp_path, monkeypatch
):
    """Another process saves its last one before it lets the folder go."""
    (run / "config.yaml").write_text("task: {name: pendulum-swingup, max_control_steps: 30}\n")  # all else is missing
    saved, later, take = run / "checkpoints" / "000000360", tmp_path / "later", RunFolder.take
    saved.rename(later)
    monkeypatch.setattr(RunFolder, "take", lambda folder: (later.rename(saved), take(folder))[1])
    was = json.loads((run / "summary.json").read_text())
    code, out, err = command("train", f"resume={run}", "steps=200")
    assert code == 0, err
    assert f"going on from {saved}\n" in err and "steps=200: it has 360 already, and is only evaluated again\n" in err
    assert json.loads(out.splitlines()[-1])["returns"] == was["returns"]


def test_a_training_ends_at_the_evaluation_that_reaches_its_return_wherever_it_was_cut_off(keys, whole, tmp_path):
    words = [*keys, "evaluation.every=100", "evaluation.stop_at_return=-1", "checkpoint.every=1000"]
    run = tmp_path / "run"
    ended = Training.begin(composed("train", words), run).run()
    assert ended["env_steps"] == 100 and (steps_of(run), steps_of(run, "eval_return")) == ([60], [100])
    metrics = (run / "metrics.csv").read_bytes()
    assert (whole / "metrics.csv").read_bytes().startswith(b"\n".join(metrics.splitlines()[:-1]))
    again = Training.begin(composed("train", []) | {"resume": str(run)}, tmp_path).run()
    assert again["returns"] == ended["returns"] and (run / "metrics.csv").read_bytes() == metrics
    assert found(composed("train", words) | {"resume": "auto"}, run)[0]["env_steps"] == 100
    on = composed("train", ["evaluation.stop_at_return=null", f"resume={run}"])
    assert Training.begin(on, tmp_path, ["evaluation.stop_at_return"]).run()["env_steps"] == 360
    assert (steps_of(run), steps_of(run, "eval_return")) == (steps_of(whole), [100, 200, 300, 360])
