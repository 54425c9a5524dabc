"""Files: tensors come back to the bit, a lock is one process's; what `resume=auto` finds in a run's folder."""

import fcntl
import json
import os
import tracemalloc
from functools import partial

import pytest
import torch

from configs.command import composed
from configs.runs.run_folder import PATIENCE_S, RunFolder, found
from configs.schema import TrainConfig
from policies.storage.checkpoint import flat, read_tensors, tensor_bytes, write_tensors
from policies.storage.folders import FolderError, check_folder, locked, replace_file, write_folder
from worldmodel import strict
from worldmodel.strict import ConfigError


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    lock = locked(tmp_path)
    assert lock is not None and locked(tmp_path) is None
    os.close(lock)
    again = locked(tmp_path)
    assert again is not None
    os.close(again)


def test_a_file_keeps_its_mode_and_may_be_the_first_of_its_folder(tmp_path):
    path = tmp_path / "new" / "f"
    replace_file(path, b"old")
    path.chmod(0o640)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640


def test_tensors_come_back_to_the_bit_and_are_written_without_a_copy_of_them(tmp_path):
    tensors = {
        "n": torch.tensor([torch.nan, -0.0, torch.inf]),
        "group": {"i": torch.arange(5), "deep": {"b": torch.tensor([True, False])}},
        "s": torch.tensor(7.0, dtype=torch.float64),
        "view": torch.arange(6.0).view(2, 3).T,
        "none": torch.zeros(0, 3),
        "large": torch.arange(2_000_000.0),
    }
    tracemalloc.start()
    write_folder(tmp_path / "x", {"t": partial(write_tensors, tensors=tensors), "b": b"beta"}, {})
    check_folder(tmp_path / "x", ("t", "b"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000  # of eight
    assert (tmp_path / "x" / "t").read_bytes() == tensor_bytes(tensors)
    assert (tmp_path / "x" / "t").stat().st_mode == (tmp_path / "x" / "b").stat().st_mode
    back, meant = read_tensors(tmp_path / "x" / "t"), flat(tensors)
    assert back.keys() == tensors.keys() and flat(back).keys() == meant.keys()
    for name, t in flat(back).items():
        assert t.dtype == meant[name].dtype and t.shape == meant[name].shape
        assert t.numpy().tobytes() == meant[name].numpy().tobytes()
    with pytest.raises(FolderError, match=f"^{tmp_path}/x/t: group/deep/c is missing$"):
        back["group"]["deep"]["c"]


@pytest.mark.parametrize("content", [b"", b"nonsense" * 10, tensor_bytes({"f": torch.ones(9)})[:-4], None])
def test_a_file_that_holds_no_tensors_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    with pytest.raises(FolderError, match="/t: not readable"):
        read_tensors(tmp_path / "t")


@pytest.mark.parametrize("text", [b"a: [", b"\xff\xfe\x00\x81", b"3\n"])
def test_a_damaged_config_of_a_run_is_named_in_one_line(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.begin({"task": {"name": "cup-catch"}, "steps": 5})
    assert folder.config() == {"task": {"name": "cup-catch"}, "steps": 5}
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(FolderError, match=r"config\.yaml: damaged") as found:
        folder.config()
    assert "\n" not in str(found.value)


def test_a_run_begun_before_a_metric_was_added_goes_on_without_it(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("env_steps,plan_std\n")
    folder.log({"env_steps": 3, "loss_value": 2.0, "plan_std": 0.5})
    folder.log({"env_steps": 4, "plan_std": float("nan")})
    assert folder.metrics.read_text() == "env_steps,plan_std\n3,0.5\n4,\n"


# `resume=auto`: begun, gone on with, or finished.


@pytest.fixture
def begun(tmp_path):
    """A run folder with a config, and what `resume=auto` finds there for given arguments."""
    (tmp_path / "config.yaml").write_text(json.dumps(composed("train", ["steps=500"])))
    return lambda *arguments: found(composed("train", ["steps=500", "resume=auto", *arguments]), tmp_path)


def test_a_folder_is_begun_gone_on_with_or_finished(begun, tmp_path):
    assert begun()[0] is None and begun()[1]["resume"] == ""
    (tmp_path / "checkpoints" / "000000100").mkdir(parents=True)
    summary, keys, given = begun("steps=800")
    assert (summary, keys["resume"], keys["steps"]) == (None, str(tmp_path), 800)
    assert {"steps", "learning.rho", "task.name"} <= set(given) and "resume" not in given
    (tmp_path / "summary.json").write_text('{"env_steps": 501}')
    assert begun()[0] == {"env_steps": 501}
    assert begun("steps=800")[0] is None
    assert begun("threads=2", "video=false", "evaluation.every=7")[0] is not None  # what may change on resuming
    (tmp_path / "summary.json").write_text('{"env_steps": 502}')
    with pytest.raises(ConfigError, match=r"steps=500: .* has 502 already"):
        begun()


@pytest.mark.parametrize("key", ["learning.rho=0.25", "noise=pink", "seed=2", "task=walker-run", "token=line2"])
def test_a_folder_of_other_settings_is_refused_by_name(begun, tmp_path, key):
    with pytest.raises(ConfigError, match=rf"{tmp_path} was begun with"):
        begun(key)


def test_a_damaged_or_a_busy_folder_is_named(begun, tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text('{"env_steps": 5')
    with pytest.raises(FolderError, match=rf"^{tmp_path}/summary.json: damaged"):
        begun()
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(FolderError, match="another semagram-train is running there"):
        begun()
    assert sum(waited) == PATIENCE_S >= 60
    os.close(lock)


def test_a_return_to_stop_at_is_refused_where_nothing_would_reach_it():
    for words, line in (
        (["evaluation.stop_at_return=-inf"], "evaluation.stop_at_return=-inf: a number, and evaluation.every= above 0"),
        (["evaluation.every=0"], "evaluation.stop_at_return=850.0: a number, and evaluation.every= above 0"),
        (["envs=0", "data=[a]", "task=so101-touch"], "evaluation.stop_at_return=: not with envs=0, where no episode"),
    ):
        with pytest.raises(ConfigError, match=line):
            strict.build(TrainConfig, composed("train", ["evaluation.stop_at_return=850", *words]))
