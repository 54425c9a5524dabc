"""Laws of checkpoints: a run read back is the run itself; what does not fit, or is not finite, is refused by name.

That they are whole at every moment, and damage noticed, is in test_folders.py.
"""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import subprocess
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

from configs.runs.run_folder import COLUMNS
from envs.settings import TaskConfig
from policies.storage import folders
from policies.storage.checkpoint import (
    LAST,
    check_resumable,
    find_checkpoint,
    lerobot_settings,
    load_model,
    newest,
    read_spec,
    save_checkpoint,
    tensor_bytes,
)
from policies.storage.folders import FORMAT, FolderError, write_folder


def save(toys, trainer, folder, keep=2, **progress):
    """A checkpoint of now."""
    return save_checkpoint(folder, toys.spec(trainer), trainer.state_dict(), progress, keep)


@pytest.fixture(scope="module")
def trained(toys):
    """A trainer that has learned a little; no test changes it."""
    trainer = toys.trainer(toys.slides(7))
    toys.run(trainer, 12)
    return trainer


@pytest.fixture(scope="module")
def made(toys, trained, tmp_path_factory):
    """Its checkpoint, to be copied."""
    return save(toys, trained, tmp_path_factory.mktemp("made"), seconds=1.5, metrics_bytes=7)


@pytest.fixture
def path(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / made.name)


def rewrite(path, name, data: bytes, **versions):
    """Put other bytes into a checkpoint, sums and all."""
    files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    write_folder(path, files | {name: data}, versions)


def configure(path, place: str, *value):
    """Give a setting another value, or none."""
    settings = json.loads((path / "config.json").read_text())
    *groups, name = place.split(".")
    group = functools.reduce(dict.__getitem__, groups, settings)
    del group[name]
    group |= dict(zip([name], value, strict=False))
    rewrite(path, "config.json", json.dumps(settings).encode())


def names_in(group, at=""):
    """Every key of nested groups."""
    for name, below in group.items():
        yield f"{at}{name}"
        if isinstance(below, dict):
            yield from names_in(below, f"{at}{name}.")


def refused(read, *arguments, match):
    """It is, in one line."""
    with pytest.raises(FolderError, match=match) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


def test_the_run_comes_back_to_the_bit(toys, trained, path):
    spec = read_spec(path)
    assert path.name == "000000024" and spec == toys.spec(trained)
    weights, wanted = load_model(path, spec).state_dict(), trained.learner.acting.state_dict()
    assert weights.keys() == wanted.keys() and all(torch.equal(t, wanted[name]) for name, t in weights.items())
    assert check_resumable(path) == {"seconds": 1.5, "metrics_bytes": 7}
    frames = lerobot_settings({"observation.images.a": (32, 48, 3)}, 2)["input_features"]["observation.images.a"]
    assert frames["shape"] == [3, 32, 48]  # channels first
    assert json.loads((path / "manifest.json").read_text())["versions"]["commit"] == folders.commit()
    again = toys.resume(path, toys.trainer(toys.slides(7), weights=1))
    toys.run(again, 13)
    assert again.steps == 13 and toys.spec(again).env_steps == 26


@pytest.mark.parametrize("found", [None, 0, FORMAT + 1, FORMAT - 1, str(FORMAT), True])
def test_another_format_is_refused_by_whatever_reads_a_checkpoint(toys, path, found):
    configure(path, "format", *[found] * (found is not None))
    said = f"{path}: of format {found or 0}, this Semagram reads {FORMAT}; train again, or use the commit that made it"
    for read in (read_spec, check_resumable, lambda path: read_spec(path, downloaded=True)):
        refused(read, path, match=f"^{re.escape(said)}$")
    rewrite(path, "x", b"", commit="80c0e67+")
    refused(read_spec, path, match=re.escape(f"{said} (80c0e67+)"))


def test_only_what_was_downloaded_may_lack_its_manifest(path):
    spec = read_spec(path, downloaded=True)
    (path / "manifest.json").unlink()
    refused(read_spec, path, match=r"manifest\.json: missing")
    assert read_spec(path, downloaded=True) == spec


def test_what_a_checkpoint_holds_is_what_its_format_says(path):
    """Who drops or renames a key or a tensor takes the next FORMAT; who adds one, with a default, a new sum."""
    held = {f"task.{field.name}" for field in dataclasses.fields(TaskConfig)} | {f"metrics.{name}" for name in COLUMNS}
    held |= {*names_in(json.loads((path / "config.json").read_text()))}
    for file in path.glob("*.safetensors"):
        held |= {f"{file.name}: {name}" for name in load_file(file)}
    digest = hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()[:12]
    assert (FORMAT, digest) == (8, "19b8e317519f")


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept_and_last_is_the_newest(toys, trained, tmp_path, keep):
    run, strangers = tmp_path / "checkpoints", ("000009998", "000009999")
    refused(newest, run, match="holds no checkpoint")
    refused(find_checkpoint, tmp_path, match="holds no checkpoint$")
    refused(find_checkpoint, tmp_path / "gone", match=r"gone: no such folder$")
    spec, state = toys.spec(trained), trained.state_dict()
    for steps in (24, 26, 28, 28):
        path = save_checkpoint(run, dataclasses.replace(spec, env_steps=steps), state, {"at": steps}, keep)
        assert newest(run) == path == find_checkpoint(tmp_path) == find_checkpoint(run) == find_checkpoint(path)
        assert (run / LAST).resolve() == path == find_checkpoint(run / LAST)
        kept = sorted(p.name for p in run.iterdir() if p.name != LAST)
        assert kept == [f"{s:09d}" for s in (24, 26, 28) if steps - 2 * keep < s <= steps]
    for stranger in strangers:
        shutil.copytree(path, run / stranger)
    path = save_checkpoint(run, dataclasses.replace(spec, env_steps=30), state, {}, keep)
    assert read_spec(path) == read_spec(run / LAST) and read_spec(path).env_steps == 30  # what was just saved stays
    assert sorted(p.name for p in run.iterdir() if p.name != LAST) == sorted([path.name, *strangers[3 - keep :]])


@pytest.mark.parametrize(
    ("bad", "part", "name"), [(torch.nan, "model", "encoder.parts.0.weight"), (torch.inf, "learner", "weights")]
)
def test_a_weight_that_is_not_finite_is_never_saved(toys, trained, tmp_path, bad, part, name):
    good, state = save(toys, trained, tmp_path), trained.state_dict()
    state[part] = state[part] | {name: state[part][name].clone()}
    state[part][name].view(-1)[5] = bad
    with pytest.raises(FloatingPointError, match=f"weight {name} is not finite"):
        save_checkpoint(tmp_path, dataclasses.replace(toys.spec(trained), env_steps=26), state, {}, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [good.name, LAST]


@pytest.mark.parametrize("saved", [b'{"type": "act"}', b"[]", b"\xff", b"[" * 100_000])
def test_settings_of_something_else_are_refused_by_name(path, saved):
    rewrite(path, "config.json", saved)
    refused(read_spec, path, match=r"/config\.json: not (JSON|a Semagram checkpoint)")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("planner.horizon", [5.0], "planner.horizon=5.0: a whole number"),
        ("planner", [3], "planner=3: a group of keys"),
        ("model.latent", [17], "model.latent=17: a multiple of "),
        ("action_size", [0], "action_size=0: at least 1"),
        ("senses", [{"observation.images.a": [32, 48]}], "observation.images.a: frames (height, width, 3)"),
        ("senses", [{}], "a model perceives at least one sense"),
        ("sentences", ["go on"], "sentences=go on: a list"),
        ("env_steps", [], "env_steps: missing"),
    ],
)
def test_settings_of_a_wrong_type_out_of_range_or_missing_are_refused_in_one_line_by_their_key(
    path, place, value, said
):
    configure(path, place, *value)
    refused(read_spec, path, match=f"^{re.escape(f'{path}/config.json: {said}')}")


@pytest.mark.parametrize("place", ["model.encoder", "planner.algorithm", "planner.anchor", "sentences"])
def test_a_checkpoint_of_before_a_setting_was_added_has_its_default(path, place):
    spec = read_spec(path)
    configure(path, place)
    assert read_spec(path) == spec


@pytest.mark.parametrize("change", [{"width": 24}, {"latent": 24}, {"value_heads": 3}, {"bins": 13}])
def test_a_model_of_another_size_is_refused_in_one_line(toys, made, change):
    other = dataclasses.replace(read_spec(made), model=toys.tiny_config(**change))
    refused(load_model, made, other, match=r"model\.safetensors: .* is .*, .* is needed$")


def test_a_trainer_of_another_size_is_refused_in_one_line(toys, made):
    slide = toys.slides(7)
    for other in (toys.trainer(slide, length=4), toys.trainer(toys.slides(7, 7)), toys.trainer(slide, capacity=100)):
        refused(toys.resume, made, other, match=str(made))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("model", "trunk.0.weight"), ("learner", "exp_avg"), ("loop", "generator"), ("loop", "agent/noise/parts")),
        *(("loop", "agent/wide"), ("loop", "episodes/experts/taken"), ("replay", "head"), ("replay", "reward")),
    ],
)
def test_a_missing_part_of_the_run_is_refused_in_one_line(toys, path, file, name):
    tensors = load_file(path / f"{file}.safetensors")
    del tensors[name]
    rewrite(path, f"{file}.safetensors", tensor_bytes(tensors))
    refused(toys.resume, path, toys.trainer(toys.slides(7)), match=f"^{path}.*{name}")


@pytest.mark.parametrize("spoil", ["missing", "too many", "nan"])
def test_weights_that_are_missing_too_many_or_not_finite_are_refused_in_one_line(path, spoil):
    tensors = load_file(path / "model.safetensors")
    if spoil == "too many":
        tensors["trunk.9.weight"] = torch.ones(1)
    elif spoil == "missing":
        del tensors["trunk.0.weight"]
    else:
        tensors["trunk.0.weight"][0, 0] = torch.nan
    rewrite(path, "model.safetensors", tensor_bytes(tensors))
    refused(load_model, path, read_spec(path), match=r"model\.safetensors: (weight )?trunk\.\d\.weight is ")


@pytest.mark.parametrize(("part", "kind"), [("replay", KeyError), ("agent", ValueError)])
def test_a_defect_in_taking_a_part_back_is_no_fault_of_the_file(toys, made, monkeypatch, part, kind):
    other = toys.trainer(toys.slides(7))

    def defect(*_):
        raise kind("a defect")

    monkeypatch.setattr(getattr(other, part), "load_state_dict", defect)
    with pytest.raises(kind, match="a defect") as caught:
        toys.resume(made, other)
    assert not isinstance(caught.value, FolderError)


def test_code_that_is_installed_within_another_checkout_has_a_version_and_no_commit(tmp_path, monkeypatch):
    """A virtual environment mostly lies in the checkout of whoever uses it."""
    assert not folders.commit.__wrapped__().startswith("v")
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(folders, "CHECKOUT", packages)
    assert folders.commit.__wrapped__() == f"v{version('semagram')}"
