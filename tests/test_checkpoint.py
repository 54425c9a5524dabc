"""Laws of checkpoints: a run read back is the run itself; what does not fit, or is not finite, is refused by name."""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

from configs.runs.run_folder import COLUMNS
from envs.settings import TaskConfig
from policies.storage import code_version
from policies.storage.checkpoint import (
    LAST,
    check_resumable,
    load_model,
    newest,
    read_spec,
    save_checkpoint,
)
from policies.storage.folders import FolderError, read_tensors, tensor_bytes, write_folder
from policies.storage.format import FORMAT


def never(text):
    """A warning that must not come."""
    raise AssertionError(text)


def advance(trainer, steps):
    """Run to so many control steps; the episodes that ended."""
    return [end for _ in range(steps - trainer.steps) for end in trainer.step()]


def save(toys, trainer, folder, keep=2, **progress):
    """A checkpoint of now."""
    return save_checkpoint(folder, toys.spec(trainer), trainer.state_dict(), progress, keep)


@pytest.fixture
def trained(toys):
    """A trainer that has learned a little."""
    trainer = toys.trainer(toys.slides(7))
    advance(trainer, 12)
    return trainer


def rewrite(path, name, tensors):
    """Put other tensors into a checkpoint, sums and all."""
    files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    write_folder(path, files | {name: tensor_bytes(tensors)}, {})


def names_in(group, at=""):
    """Every key of nested groups."""
    for name, below in group.items():
        yield f"{at}{name}"
        if isinstance(below, dict):
            yield from names_in(below, f"{at}{name}.")


def test_the_identity_comes_back(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    assert path.name == "000000024"
    assert read_spec(path) == toys.spec(trained)


def test_the_model_comes_back_to_the_bit(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    model = load_model(path, read_spec(path))
    wanted = trained.learner.acting.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in model.state_dict().items())
    assert set(wanted) == set(model.state_dict())


@pytest.mark.parametrize("found", [None, 0, FORMAT + 1, -1, str(FORMAT), float(FORMAT), True, [FORMAT]])
@pytest.mark.parametrize("made", ["", "80c0e67+"])
def test_another_format_is_refused_by_whatever_reads_a_checkpoint(toys, trained, tmp_path, found, made):
    path = save(toys, trained, tmp_path)
    settings = json.loads((path / "config.json").read_text())
    assert settings["format"] == FORMAT
    settings["format"] = found
    if found is None:
        del settings["format"]
    files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    write_folder(path, files | {"config.json": json.dumps(settings).encode()}, {"commit": made} if made else {})
    said = f"{path}: of format {found or 0}, this Semagram reads {FORMAT}; train again, or use the commit that made it"
    for read in (read_spec, check_resumable, lambda path: toys.resume(path, toys.trainer(toys.slides(7)))):
        with pytest.raises(FolderError, match=f"^{re.escape(said + f' ({made})' * bool(made))}$"):
            read(path)


def test_a_manifest_says_which_commit_made_it(toys, trained, tmp_path):
    manifest = json.loads((save(toys, trained, tmp_path) / "manifest.json").read_text())
    assert manifest["versions"]["commit"] == code_version.commit()


def test_what_a_checkpoint_holds_is_what_its_format_says(toys, trained, tmp_path):
    """Who adds, drops or renames a key or a tensor takes the next FORMAT, and writes its sum here."""
    path = save(toys, trained, tmp_path)
    held = {f"task.{field.name}" for field in dataclasses.fields(TaskConfig)} | {f"metrics.{name}" for name in COLUMNS}
    held |= {*names_in(json.loads((path / "config.json").read_text()))}
    for file in path.glob("*.safetensors"):
        held |= {f"{file.name}: {name}" for name in load_file(file)}
    digest = hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()[:12]
    assert (FORMAT, digest) == (6, "b4d8b7ae3d90")


def test_progress_comes_back(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path, seconds=1.5, metrics_bytes=7)
    assert check_resumable(path) == {"seconds": 1.5, "metrics_bytes": 7}


def test_nothing_is_pickled(toys, trained, tmp_path):
    """Every file is JSON or tensors, by its name and by what is in it."""
    reads = {".json": lambda file: json.loads(file.read_bytes()), ".safetensors": read_tensors}
    files = [*save(toys, trained, tmp_path).iterdir()]
    assert {file.suffix for file in files} == reads.keys()
    assert all(isinstance(reads[file.suffix](file), dict) for file in files)


@pytest.mark.parametrize("keep", [1, 2, 6])
def test_the_newest_are_kept_and_last_is_the_newest(toys, trained, tmp_path, keep):
    for steps in range(12, 17):
        advance(trained, steps)
        path = save(toys, trained, tmp_path, keep)
        assert newest(tmp_path) == path
        assert (tmp_path / LAST).resolve() == path.resolve()
        kept = sorted(p.name for p in tmp_path.iterdir() if p.name != LAST)
        assert kept == [f"{2 * s:09d}" for s in range(max(12, steps - keep + 1), steps + 1)]


def test_what_was_just_saved_is_kept_whatever_else_lies_there(toys, trained, tmp_path):
    for stranger in ("000009998", "000009999"):
        shutil.copytree(save(toys, trained, tmp_path / "other"), tmp_path / stranger)
    path = save(toys, trained, tmp_path)
    assert read_spec(path).env_steps == 24
    assert read_spec(tmp_path / LAST).env_steps == 24


def test_the_same_step_can_be_saved_again(toys, trained, tmp_path):
    save(toys, trained, tmp_path, seconds=1.0)
    path = save(toys, trained, tmp_path, seconds=2.0)
    assert json.loads((path / "progress.json").read_text()) == {"seconds": 2.0}
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, LAST]


def test_what_a_killed_save_left_is_cleared_by_the_next(toys, trained, tmp_path):
    gone = (9999999, os.getpid())  # no system has so many, and this one is not saving now
    for process in gone:
        (tmp_path / f".000000022.{process}").mkdir()
        (tmp_path / f".000000022.{process}" / "replay.safetensors").write_bytes(b"half")
        (tmp_path / f".last.{process}").symlink_to("000000022")
    (tmp_path / f".000000023.{gone[0]}").write_bytes(b"no folder")
    save(toys, trained, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000024", LAST]


def test_what_a_kill_caught_without_its_name_gets_it_back(toys, trained, tmp_path):
    """Where folders cannot change names in one step, there is a moment in which only a hidden one is there."""
    good = save(toys, trained, tmp_path)
    read_spec(good)
    for name in (good.name, "000000011"):
        shutil.copytree(good, tmp_path / f".{name}.9999999.old")
    advance(trained, 13)
    later = save(toys, trained, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000011", good.name, later.name, LAST]
    read_spec(tmp_path / "000000011")


def test_what_is_not_left_of_a_save_is_left_alone(toys, trained, tmp_path):
    """Hidden files of others, and what another process is writing."""
    living = os.getppid()
    others = [".nfs0001", ".DS_Store", ".000000022", f".last.{living}.old", ".notes.9999999", f".last.{living}"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f".000000022.{living}").mkdir()
    save(toys, trained, tmp_path)
    left = [*others, f".000000022.{living}", "000000024", LAST]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(left)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("which", "name"), [("average", r"encoder\.parts\.0\.weight"), ("flat", "weights")])
def test_a_weight_that_is_not_finite_is_never_saved(toys, trained, tmp_path, bad, which, name):
    good = save(toys, trained, tmp_path)
    before = {p.name: p.read_bytes() for p in good.iterdir()}
    advance(trained, 13)
    getattr(trained.learner, which)[5] = bad
    with pytest.raises(FloatingPointError, match=f"weight {name} is not finite"):
        save(toys, trained, tmp_path)
    assert newest(tmp_path) == good
    assert {p.name: p.read_bytes() for p in good.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [good.name, LAST]


def test_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(FolderError, match="holds no checkpoint"):
        newest(tmp_path)
    with pytest.raises(FolderError, match="holds no checkpoint"):
        newest(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_named_before_anything_is_read_from_it(toys, trained, tmp_path, name):
    path = save(toys, trained, tmp_path)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 4
    (path / name).write_bytes(data)
    with pytest.raises(FolderError, match=f"{name}: damaged"):
        read_spec(path)


@pytest.mark.parametrize("name", ["model", "learner", "loop", "replay"])
def test_a_trainer_reads_no_damaged_file(toys, trained, tmp_path, name):
    path = save(toys, trained, tmp_path)
    file = path / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FolderError, match=f"{name}.safetensors: damaged"):
        toys.resume(path, toys.trainer(toys.slides(7)))


@pytest.mark.parametrize(
    "saved", [b'{"type": "other"}', b"{}", b"[]", b'"text"', b"{", b"\xff", pytest.param(b"[" * 100_000, id="deep")]
)
def test_settings_of_something_else_are_refused_by_name(tmp_path, saved):
    write_folder(tmp_path / "x", {"config.json": saved, "model.safetensors": b""}, {})
    with pytest.raises(FolderError, match=r"x/config\.json: not ") as caught:
        read_spec(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_kind_is_refused(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    settings = json.loads((path / "config.json").read_text()) | {"type": "act"}
    write_folder(tmp_path / "x", {"config.json": json.dumps(settings).encode(), "model.safetensors": b""}, {})
    with pytest.raises(FolderError, match=r"not a Semagram checkpoint$"):
        read_spec(tmp_path / "x")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("planner.horizon", 5.5, "planner.horizon=5.5: a whole number"),
        ("planner.horizon", 5.0, "planner.horizon=5.0: a whole number"),
        ("planner.patience", True, "planner.patience=True: a whole number"),
        ("model.token.joined", 1, "model.token.joined=1: true or false"),
        ("planner.spread", "0.5", "planner.spread=0.5: a number"),
        ("planner.spread", 10**400, "planner.spread=1"),
        ("planner.budget", "fixed", "planner.budget: removed: "),
        ("model.precision", None, "model.precision=None: text"),
        ("planner.haste", 1, "planner.haste: no such key"),
        ("planner", 3, "planner=3: a group of keys"),
        ("model.token.length", 1.0, "model.token.length=1.0: a whole number"),
        ("model.token.joined", 0, "model.token.joined=0: true or false"),
        ("model.vision.lags", [0, 1.5], "model.vision.lags=1.5: a whole number"),
        ("model.latent", 17, "model.latent=17: a multiple of "),
        ("action_size", 2.5, "action_size=2.5: a whole number"),
        ("senses", {"observation.state": [3.5]}, "senses.observation.state=3.5: a whole number"),
        ("senses", {"observation.state": []}, "observation.state: a vector of numbers, not ()"),
        ("senses", {"observation.images.a": [32, 48]}, "observation.images.a: frames (height, width, 3)"),
        ("senses", {}, "a model perceives at least one sense"),
        ("action_size", -1, "action_size=-1: at least 1"),
        ("senses", [3], "senses=[3]: a group of keys"),
        ("sentences", "go on", "sentences=go on: a list"),
    ],
)
def test_settings_of_a_wrong_type_or_out_of_range_are_refused_in_one_line_by_their_key(
    toys, trained, tmp_path, place, value, said
):
    path = save(toys, trained, tmp_path)
    settings = json.loads((path / "config.json").read_text())
    *groups, name = place.split(".")
    functools.reduce(dict.__getitem__, groups, settings)[name] = value
    write_folder(tmp_path / "x", {"config.json": json.dumps(settings).encode(), "model.safetensors": b""}, {})
    with pytest.raises(FolderError, match=f"^{re.escape(f'{tmp_path}/x/config.json: {said}')}") as caught:
        read_spec(tmp_path / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["env_steps", "model.width", "model.token.joined", "planner.anchor", "sentences"])
def test_settings_that_are_missing_are_not_made_up(toys, trained, tmp_path, place):
    path = save(toys, trained, tmp_path)
    settings = json.loads((path / "config.json").read_text())
    *groups, name = place.split(".")
    del functools.reduce(dict.__getitem__, groups, settings)[name]
    write_folder(tmp_path / "x", {"config.json": json.dumps(settings).encode(), "model.safetensors": b""}, {})
    with pytest.raises(FolderError, match=rf"config\.json: {re.escape(place)}: missing$"):
        read_spec(tmp_path / "x")


@pytest.mark.parametrize("change", [{"width": 24}, {"latent": 24}, {"value_heads": 3}, {"bins": 13}])
def test_a_checkpoint_of_another_size_is_refused_in_one_line(toys, trained, tmp_path, change):
    path = save(toys, trained, tmp_path)
    other = dataclasses.replace(read_spec(path), model=toys.tiny_config(**change))
    with pytest.raises(FolderError, match=r"model\.safetensors: .* is .*, .* is needed$") as caught:
        load_model(path, other)
    assert "\n" not in str(caught.value)


def test_a_trainer_of_another_size_is_refused_in_one_line(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    for other in (
        toys.trainer(toys.slides(7), length=4),
        toys.trainer(toys.slides(7, 7)),
        toys.trainer(toys.slides(7), capacity=100),
    ):
        with pytest.raises(FolderError, match=str(path)) as caught:
            toys.resume(path, other)
        assert "\n" not in str(caught.value)


def test_tensors_missing_or_too_many_are_refused_in_one_line(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    tensors = read_tensors(path / "model.safetensors")
    name = "trunk.0.weight"
    for spoiled in ({n: t for n, t in tensors.items() if n != name}, tensors | {"trunk.9.weight": torch.ones(1)}):
        rewrite(path, "model.safetensors", spoiled)
        with pytest.raises(FolderError, match=r"model\.safetensors: trunk\.\d\.weight is ") as caught:
            load_model(path, read_spec(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("learner", "exp_avg"), ("loop", "generator"), ("loop", "agent/noise/parts"), ("loop", "agent/wide")),
        *(("loop", "episodes/experts/taken"), ("replay", "head"), ("replay", "reward")),
    ],
)
def test_a_missing_part_of_the_run_is_refused_in_one_line(toys, trained, tmp_path, file, name):
    path = save(toys, trained, tmp_path)
    tensors = load_file(path / f"{file}.safetensors")
    del tensors[name]
    rewrite(path, f"{file}.safetensors", tensors)
    with pytest.raises(FolderError, match=f"^{path}.*{name}") as caught:
        toys.resume(path, toys.trainer(toys.slides(7)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [KeyError, ValueError])
@pytest.mark.parametrize("part", ["replay", "episodes", "agent"])
def test_a_defect_in_taking_a_part_back_is_no_fault_of_the_file(toys, trained, tmp_path, monkeypatch, part, kind):
    path, other = save(toys, trained, tmp_path), toys.trainer(toys.slides(7))

    def defect(*_):
        raise kind("a defect")

    monkeypatch.setattr(getattr(other, part), "load_state_dict", defect)
    with pytest.raises(kind, match="a defect") as caught:
        toys.resume(path, other)
    assert not isinstance(caught.value, FolderError)


def test_a_saved_weight_that_is_not_finite_is_refused(toys, trained, tmp_path):
    path = save(toys, trained, tmp_path)
    tensors = read_tensors(path / "model.safetensors")
    tensors["next.weight"][0, 0] = torch.nan
    rewrite(path, "model.safetensors", tensors)
    with pytest.raises(FolderError, match=r"next\.weight is not finite"):
        load_model(path, read_spec(path))


def test_code_that_is_installed_within_another_checkout_has_a_version_and_no_commit(tmp_path, monkeypatch):
    """A virtual environment mostly lies in the checkout of whoever uses it."""
    assert not code_version.commit.__wrapped__().startswith("v")
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(code_version, "CHECKOUT", packages)
    assert code_version.commit.__wrapped__() == f"v{version('semagram')}"
