"""Laws of going on with a run: from what its checkpoint holds, or refused in one line with nothing changed."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from configs.runs.run_folder import RunFolder
from policies.storage.versions import FORMAT

DAMAGED = [*(f"{name}.safetensors" for name in ("model", "learner", "replay", "loop")), "config.json", "progress.json"]


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory):
    """A run folder with checkpoints."""
    folder = tmp_path_factory.mktemp("resuming") / "run"
    keys = [
        *toys.tiny_keys,
        "task=gym",
        "task.id=Pendulum-v1",
        "task.max_control_steps=50",
        "steps=200",
        "evaluation.every=0",
    ]
    command = [sys.executable, "-m", "configs.train", *keys, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_named(command, trained, tmp_path, name):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    file = run / "checkpoints" / "last" / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    before = contents(run)
    code, out, err = command("train", f"resume={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{name}: damaged" in err
    assert contents(run) == before
    os.close(RunFolder(run).take())
    if name in ("model.safetensors", "config.json"):
        code, out, err = command("evaluate", f"checkpoint={run}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{name}: damaged" in err
    assert [*tmp_path.iterdir()] == [run]


def test_a_checkpoint_that_is_missing_something_is_named(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (run / "checkpoints" / "last" / "model.safetensors").unlink()
    for name, key in (("train", "resume"), ("evaluate", "checkpoint")):
        code, _, err = command(name, f"{key}={run}")
        assert (code, err.count("\n")) == (2, 1)
        assert "model.safetensors: missing" in err
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    for name, key in (("train", "resume"), ("evaluate", "checkpoint")):
        code, _, err = command(name, f"{key}={run}")
        assert (code, err.count("\n")) == (2, 1)
        assert "holds no checkpoint" in err


@pytest.mark.parametrize("made", ["", "80c0e67"])
def test_a_checkpoint_of_another_format_is_refused_in_one_line_and_nothing_changed(command, trained, tmp_path, made):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    checkpoint = (run / "checkpoints" / "last").resolve()
    saved = json.loads((checkpoint / "config.json").read_text())
    saved["planner"]["haste"] = saved.pop("discount")  # which is not what ends it
    resign(checkpoint, "config.json", json.dumps(saved | {"format": FORMAT + 3}).encode(), made)
    before = contents(run)
    for name, key in (("train", "resume"), ("evaluate", "checkpoint")):
        code, out, err = command(name, f"{key}={run}")
        assert (code, out) == (2, "")
        line = f"{checkpoint}: of format {FORMAT + 3}, this Semagram reads {FORMAT}; train again, or use the"
        assert err == f"semagram: {line} commit that made it{f' ({made})' if made else ''}\n"
    assert contents(run) == before
    os.close(RunFolder(run).take())


def test_a_config_that_is_not_the_checkpoints_is_refused(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last"
    begun = config.read_text()
    for was, now, said in (
        ("max_control_steps: 50", "max_control_steps: 60", "task.max_control_steps=50, not 60"),
        ("noise: mixed", "noise: white", "noise=mixed, not white"),
    ):
        config.write_text(begun.replace(was, now))
        code, out, err = command("train", f"resume={run}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{config}: not what {checkpoint.resolve()} was made with ({said})" in err


def test_a_run_goes_on_with_the_config_of_its_checkpoint(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (run / "config.yaml").write_text("task: {name: gym, id: Pendulum-v1}\n")  # all else is not there to be read
    was = json.loads((run / "summary.json").read_text())
    code, out, err = command("train", f"resume={run}", "video=false")
    assert code == 0, err
    assert json.loads(out)["returns"] == was["returns"]


def test_a_run_that_is_being_trained_is_left_to_that(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    before = contents(run)
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, out, err = command("train", f"resume={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{run}: another semagram-train is running there" in err
    assert contents(run) == before
    os.close(lock)
    assert command("train", f"resume={run}", "video=false")[0] == 0


def test_the_newest_checkpoint_is_sought_once_the_run_is_ours(command, trained, tmp_path, monkeypatch):
    """Another process saves its last one before it lets the folder go."""
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    saved, later, take = run / "checkpoints" / "000000200", tmp_path / "later", RunFolder.take
    saved.rename(later)
    monkeypatch.setattr(RunFolder, "take", lambda folder: (later.rename(saved), take(folder))[1])
    code, _, err = command("train", f"resume={run}", "video=false")
    assert code == 0, err
    assert f"going on from {saved}\n" in err


def test_on_resuming_a_folder_or_a_group_is_not_taken(command, trained, tmp_path):
    before = contents(trained)
    for key, said in (
        ("hydra.run.dir=elsewhere", "hydra.run.dir=: not with resume="),
        ("evaluation={every:5}", "evaluation: a group; on resuming, its keys are given one by one, evaluation.every="),
    ):
        code, out, err = command("train", f"resume={trained}", key)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
    assert contents(trained) == before
    assert not [*tmp_path.iterdir()]


def test_an_evaluation_leaves_a_runs_own_summary_alone(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    before = contents(run)
    code, out, err = command("evaluate", f"checkpoint={run}", f"hydra.run.dir={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"hydra.run.dir={run}: a run's own folder" in err
    assert contents(run) == before


def test_a_run_is_not_written_over(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    before = contents(run)
    code, out, err = command("train", f"hydra.run.dir={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"hydra.run.dir={run}: holds a run already; resume={run} goes on with it" in err
    assert contents(run) == before


def test_a_checkpoint_whose_task_has_changed_is_refused(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    checkpoint = run / "checkpoints" / "last"
    saved = json.loads((checkpoint / "config.json").read_text())
    saved["task"]["id"] = "MountainCarContinuous-v0"
    data = json.dumps(saved).encode()
    resign(checkpoint, "config.json", data)
    code, out, err = command("evaluate", f"checkpoint={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "observation.state has 3 numbers, the task's has 2" in err


def test_what_was_fixed_at_the_beginning_cannot_change_on_resuming(command, trained, tmp_path):
    before = contents(trained)
    for key in (
        "seed=9",
        "learning.batch_size=16",
        "task=walker-walk",
        "seed_steps=7",
        "model.vision.patch=4",
        "token=line2",
    ):
        code, out, err = command("train", f"resume={trained}", key)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{key.partition('=')[0]}: fixed when this run began" in err
    assert contents(trained) == before
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("steps", [100, 200])
def test_a_run_that_has_its_steps_already_says_so_when_it_is_resumed(command, trained, tmp_path, steps):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    code, out, err = command("train", f"resume={run}", f"steps={steps}")
    assert code == 0
    assert f"steps={steps}: it has 200 already, and is only evaluated again\n" in err
    assert json.loads(out.splitlines()[-1])["env_steps"] == 200


def test_a_run_of_a_machine_with_more_cores_says_so_on_resuming(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    checkpoint = run / "checkpoints" / "last"
    progress = json.loads((checkpoint / "progress.json").read_text())
    progress["config"]["threads"] = 100_000
    resign(checkpoint, "progress.json", json.dumps(progress).encode())
    code, out, err = command("train", f"resume={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"threads=100000: at most {os.cpu_count()}, the cores of this machine" in err


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("seconds",), "seconds: missing"),
        (("config", "noise"), "noise: missing; train again, or use the commit that made it"),
        (("config", "learning", "rho"), "learning.rho: missing; train again"),
        (("config", "task", "max_control_steps"), "task.max_control_steps: missing; train again"),
        (("config", "planner"), "planner: missing; train again"),
    ],
)
def test_a_run_that_lacks_a_setting_goes_on_with_no_default(command, trained, tmp_path, place, said):
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    checkpoint = (run / "checkpoints" / "last").resolve()
    progress = node = json.loads((checkpoint / "progress.json").read_text())
    *groups, name = place
    for group in groups:
        node = node[group]
    del node[name]
    resign(checkpoint, "progress.json", json.dumps(progress).encode())
    before = contents(run)
    code, out, err = command("train", f"resume={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"semagram: {checkpoint / 'progress.json'}: {said}")
    assert contents(run) == before


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
