"""Laws of saved folders: whole or absent, whatever happens on the way; and damage is noticed and named."""

import builtins
import json
import os
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import pytest
import torch

from configs.runs.run_folder import RunFolder
from policies.storage import folders
from policies.storage.files import replace_file
from policies.storage.folders import (
    MANIFEST,
    FolderError,
    check_folder,
    read_tensors,
    tensor_bytes,
    write_folder,
)

FILES = {"a": b"alpha" * 100, "b": b""}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What crashes.py found."""
    program, folder = Path(__file__).with_name("crashes.py"), tmp_path_factory.mktemp("crashes")
    done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_written_is_there(tmp_path):
    write_folder(tmp_path / "deep" / "x", FILES, {"torch": "1"})
    manifest = check_folder(tmp_path / "deep" / "x", ("a", "b"))
    assert manifest["versions"] == {"torch": "1"}
    assert {name: (tmp_path / "deep" / "x" / name).read_bytes() for name in FILES} == FILES
    assert os.listdir(tmp_path / "deep") == ["x"]


@pytest.mark.parametrize(("kind", "least"), [("folder", 10), ("checkpoint", 20)])
def test_killed_anywhere_a_save_leaves_the_old_or_the_new(found, kind, least):
    assert set(found[kind]) == {"old", "new"}
    assert found[kind][0] == "old" and found[kind][-1] == "new"
    assert len(found[kind]) > least


def test_a_full_disk_leaves_the_old(found):
    assert found["full"] == ["EFBIG", "old"] * 3


class Trip:
    """Lets so many calls through, then makes one fail."""

    def __init__(self, calls):
        self.left = calls

    def wrap(self, function):
        """The function, until it is its turn to fail."""

        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return wrapped


@pytest.mark.parametrize(("exists", "system"), [(False, "linux"), (True, "linux"), (True, "another")])
def test_failing_anywhere_a_save_leaves_the_old_or_the_new_and_nothing_else(tmp_path, monkeypatch, exists, system):
    monkeypatch.setattr(folders, "sys", types.SimpleNamespace(platform=system))
    outcomes = []
    for calls in range(100):
        root = tmp_path / str(calls)
        root.mkdir()
        if exists:
            write_folder(root / "x", {"a": b"old"}, {})
        trip = Trip(calls)
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "rename"), (os, "mkdir"), (builtins, "open")):
                patch.setattr(module, name, trip.wrap(getattr(module, name)))
            try:
                write_folder(root / "x", {"a": b"new"}, {})
                failed = False
            except OSError:
                failed = True
        assert os.listdir(root) in ([], ["x"])
        if (root / "x").exists():
            check_folder(root / "x", ("a",))
            outcomes.append((root / "x" / "a").read_text())
        else:
            outcomes.append("none")
        assert failed or outcomes[-1] == "new"
        if trip.left >= 0:
            break
    assert set(outcomes) == {"old" if exists else "none", "new"}
    assert len(outcomes) > 5


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    log, paths = [], {}
    fsync, rename = os.fsync, os.rename

    def synced(handle):
        log.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(one, other):
        log.append("rename")
        paths[other] = one
        rename(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    write_folder(tmp_path / "x", FILES, {})
    aside = paths[tmp_path / "x"].name
    assert sorted(log[: log.index("rename")]) == sorted([*FILES, MANIFEST, aside])
    assert log[log.index("rename") :] == ["rename", tmp_path.name]


@pytest.mark.parametrize("where", [0, 250, 499])
def test_one_changed_byte_is_noticed_and_its_file_named(tmp_path, where):
    write_folder(tmp_path / "x", FILES, {})
    data = bytearray(FILES["a"])
    data[where] ^= 1
    (tmp_path / "x" / "a").write_bytes(data)
    with pytest.raises(FolderError, match="x/a: damaged"):
        check_folder(tmp_path / "x", ("a", "b"))
    check_folder(tmp_path / "x", ("b",))  # only what is needed is read


def test_a_cut_file_is_noticed_and_named(tmp_path):
    write_folder(tmp_path / "x", FILES, {})
    os.truncate(tmp_path / "x" / "a", 100)
    with pytest.raises(FolderError, match="x/a: damaged"):
        check_folder(tmp_path / "x", ("a",))


@pytest.mark.parametrize("name", ["a", MANIFEST])
def test_a_missing_file_is_named(tmp_path, name):
    write_folder(tmp_path / "x", FILES, {})
    (tmp_path / "x" / name).unlink()
    with pytest.raises(FolderError, match=f"x/{name}: missing"):
        check_folder(tmp_path / "x", ("a",))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FolderError, match="x: no such folder"):
        check_folder(tmp_path / "x", ())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"{}", b'{"files": 3}', b'{"files": {"a": 3}}', b"\xff\xfe\x00", b'{"files": []}'),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, content):
    write_folder(tmp_path / "x", FILES, {})
    (tmp_path / "x" / MANIFEST).write_bytes(content)
    with pytest.raises(FolderError, match=f"x/{MANIFEST}: not a manifest"):
        check_folder(tmp_path / "x", ("a",))


def test_any_flipped_bit_of_a_manifest_that_matters_is_noticed(tmp_path):
    write_folder(tmp_path / "x", FILES, {})
    path = tmp_path / "x" / MANIFEST
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 0x80]) + whole[n + 1 :])
        with pytest.raises(FolderError, match="x/"):
            check_folder(tmp_path / "x", ("a", "b"))


def test_tensors_come_back_to_the_bit(tmp_path):
    tensors = {
        "f": torch.randn(3, 4),
        "n": torch.tensor([torch.nan, -0.0, torch.inf]),
        "i": torch.arange(5),
        "b": torch.tensor([True, False]),
        "s": torch.tensor(7.0, dtype=torch.float64),
        "view": torch.arange(6.0).view(2, 3).T,
        "none": torch.zeros(0, 3),
        "u": torch.Generator().get_state(),
    }
    (tmp_path / "t").write_bytes(tensor_bytes(tensors))
    back = read_tensors(tmp_path / "t")
    assert back.keys() == tensors.keys()
    for name, t in tensors.items():
        assert back[name].dtype == t.dtype and back[name].shape == t.shape
        assert torch.equal(back[name].nan_to_num(9), t.nan_to_num(9))


def test_tensors_are_written_and_their_sums_checked_without_a_copy_of_them(tmp_path):
    tensors = {"t": torch.arange(2_000_000.0)}
    tracemalloc.start()
    write_folder(tmp_path / "x", {"t": tensors, "b": b"beta"}, {})
    check_folder(tmp_path / "x", ("t", "b"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000  # of eight
    assert (tmp_path / "x" / "t").read_bytes() == tensor_bytes(tensors)
    assert (tmp_path / "x" / "t").stat().st_mode == (tmp_path / "x" / "b").stat().st_mode
    assert sorted(os.listdir(tmp_path / "x")) == ["b", MANIFEST, "t"]


@pytest.mark.parametrize("content", [b"", b"nonsense" * 10, tensor_bytes({"f": torch.ones(9)})[:-4]])
def test_a_file_that_holds_no_tensors_is_named(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(FolderError, match="/t: not readable"):
        read_tensors(tmp_path / "t")
    with pytest.raises(FolderError, match="/none: not readable"):
        read_tensors(tmp_path / "none")


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "f"
    replace_file(path, b"old")
    path.chmod(0o640)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Trip(0).wrap(getattr(os, name)))
            with pytest.raises(OSError, match="No space"):
                replace_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["f"]
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", [b"", b"a: [", b"\xff\xfe\x00\x81", b"- task\n", b"3\n"])
def test_a_damaged_config_of_a_run_is_named_in_one_line(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.begin({"task": {"name": "cup-catch"}, "steps": 5})
    assert folder.config() == {"task": {"name": "cup-catch"}, "steps": 5}
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(FolderError, match=r"config\.yaml: damaged") as found:
        folder.config()
    assert "\n" not in str(found.value)
