"""The contract of what is saved: old or new, whole, at every moment; damage is noticed, and named in one line.

All that the project writes goes through it as a `Kind`: for another folder, add one to `kinds`.
"""

import copy
import os
import re
import shutil
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.codec import Codec, CodecConfig
from policies.storage import folders
from policies.storage.checkpoint import (
    LAST,
    check_resumable,
    flat,
    load_model,
    newest,
    read_spec,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from policies.storage.folders import (
    check_folder,
    clear_aside,
    replace_file,
    write_folder,
)
from worldmodel.errors import UserError

CHANGES = {"open", "os.mkdir", "os.rename", "os.symlink", "fsync", "ctypes.dlsym"}  # the last one: renameat2
OPERATIONS = CHANGES | {"os.remove", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Kind:
    """`save(root, n)` writes version n, 0 or 1; `read(root)` returns what a reader finds, or raises UserError.

    `place(root)`: the folder with the files that are read; None for a single file.
    """

    save: Callable[[Path, int], None]
    read: Callable[[Path], object]
    place: Callable[[Path], Path] | None


def content(path: Path) -> dict:
    """The bytes of each tensor of all tensor files of a folder."""
    files = sorted(path.glob("*.safetensors"))
    return {(f.name, name): t.numpy().tobytes() for f in files for name, t in flat(read_tensors(f)).items()}


def plain_folder() -> Kind:
    """Bytes and nested tensors."""

    def save(root, n):
        tensors = {"w": torch.full((40,), float(n)), "group": {"i": torch.arange(n + 3)}}
        files = {"a.json": f"[{n}]".encode() * 500, "t.safetensors": partial(write_tensors, tensors=tensors), "b": b""}
        write_folder(root / "x", files, {"torch": "1"})

    def read(root):
        assert check_folder(root / "x", ("a.json", "t.safetensors", "b")) == {"torch": "1"}
        return (root / "x" / "a.json").read_bytes(), content(root / "x")

    return Kind(save, read, lambda root: root / "x")


def checkpoint(toys) -> Kind:
    """A run's next checkpoint, of which one is kept."""
    trainer, states = toys.trainer(toys.slides(5, 7)), []
    for steps in (8, 12):
        toys.run(trainer, steps)
        states.append((toys.spec(trainer), copy.deepcopy(trainer.state_dict()), {"version": steps}))

    def read(root):
        path = newest(root)
        progress, spec = check_resumable(path), read_spec(root / LAST)
        assert read_spec(path).env_steps >= spec.env_steps
        load_model(path, spec)
        return progress, content(path)

    return Kind(lambda root, n: save_checkpoint(root, *states[n], 1), read, newest)


def codec() -> Kind:
    """Two codecs of random walks."""
    walks = [np.random.default_rng(n).normal(size=(3, 40, 2)).cumsum(1) for n in range(2)]
    fitted = [Codec.fit(list(walk), CodecConfig(length=8, ids=3, bits=4)) for walk in walks]

    def read(root):
        found = Codec.load(root / "codec")
        return found.encode(walks[0][:, :8], walks[0][:, 0]).tobytes(), content(root / "codec")

    return Kind(lambda root, n: fitted[n].save(root / "codec"), read, lambda root: root / "codec")


def single_file() -> Kind:
    """A file that is replaced."""
    contents = b"old", b"new"
    return Kind(lambda root, n: replace_file(root / "f", contents[n]), lambda root: (root / "f").read_bytes(), None)


NAMES = ("file", "folder", "checkpoint", "codec")
FOLDERS = NAMES[1:]


@pytest.fixture(scope="module")
def kinds(toys):
    made = single_file(), plain_folder(), checkpoint(toys), codec()
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture
def saved(kinds, tmp_path, request):
    """A kind, a root with its version 0, and what a reader finds of both versions."""
    kind, found = kinds[request.param], []
    for n in range(2):
        kind.save(tmp_path / str(n), n)
        found.append(kind.read(tmp_path / str(n)))
    kind.save(tmp_path / "both", 0)
    kind.save(tmp_path / "both", 1)
    assert kind.read(tmp_path / "both") == found[1] == kind.read(tmp_path / "1") != found[0]
    assert sorted(os.listdir(tmp_path / "both")) == sorted(os.listdir(tmp_path / "1"))  # nothing else is left
    return kind, tmp_path / "0", found


every_kind = pytest.mark.parametrize("saved", NAMES, indirect=True)
every_folder = pytest.mark.parametrize("saved", FOLDERS, indirect=True)
watcher: list[Callable] = []


def hook(event, arguments):
    """Tell the watcher of an operation on the disk; not of its own."""
    if watcher and event in OPERATIONS and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        watch = watcher.pop()
        try:
            watch(event, arguments)
        finally:
            watcher.append(watch)


@contextmanager
def before_each_operation(watch):
    """Call `watch(event, arguments)` before each operation on the disk within the block."""
    if not hasattr(sys, "_folder_contract"):
        sys.addaudithook(hook)  # there is no way to remove it
        sys._folder_contract = True
    fsync = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (hook("fsync", (handle,)), fsync(handle))[1])
        watcher.append(watch)
        try:
            yield
        finally:
            watcher.clear()


def moments_of(kind, root, n, to):
    """Save version n; return copies of the root as it was before each operation, which is what a kill leaves."""
    copies = []

    def keep(event, arguments):
        copies.append(shutil.copytree(root, to / str(len(copies)), symlinks=True))

    with before_each_operation(keep):
        kind.save(root, n)
    return [*copies, root]


@every_kind
def test_killed_anywhere_a_save_leaves_the_old_or_the_new_and_the_next_one_cleans_up(saved, tmp_path):
    kind, root, found = saved
    moments = moments_of(kind, root, 1, tmp_path / "moments")
    seen = [found.index(kind.read(moment)) for moment in moments]
    assert seen == sorted(seen) and set(seen) == {0, 1} and len(seen) > 3
    for moment in moments:
        kind.save(moment, 1)
        assert sorted(os.listdir(moment)) == sorted(os.listdir(root))


@pytest.mark.parametrize("saved", ["folder"], indirect=True)
def test_where_folders_cannot_be_exchanged_a_kill_loses_none_either(saved, tmp_path, monkeypatch):
    """There is a moment in which only a hidden one is there: the next save gives it its name back."""
    kind, root, found = saved
    monkeypatch.setattr(folders, "sys", types.SimpleNamespace(platform="another"))
    hidden = 0
    for moment in moments_of(kind, root, 1, tmp_path / "moments"):
        hidden += not (moment / "x").exists()
        clear_aside(moment, "x")
        assert kind.read(moment) in found and os.listdir(moment) == ["x"]
    assert hidden == 1


@pytest.mark.parametrize(
    ("saved", "system"), [*((name, "linux") for name in NAMES), ("folder", "another")], indirect=["saved"]
)
def test_failing_anywhere_a_save_leaves_the_old_or_the_new_and_nothing_half_written(
    saved, tmp_path, monkeypatch, system
):
    kind, root, found = saved
    monkeypatch.setattr(folders, "sys", types.SimpleNamespace(platform=system))
    seen, through = [], False
    while not through:
        here, left = shutil.copytree(root, tmp_path / "here", symlinks=True), [len(seen)]

        def fail(event, arguments, left=left):
            left[0] -= event in CHANGES - {"ctypes.dlsym"}
            if left[0] == -1:
                left[0] -= 1
                raise OSError(28, "No space left on device")

        with before_each_operation(fail), suppress(OSError):
            kind.save(here, 1)
        through = left[0] >= 0
        seen.append(found.index(kind.read(here)))
        assert not [name for name in os.listdir(here) if name.startswith(".")]
        shutil.rmtree(here)
    assert set(seen) == {0, 1} and seen[-1] == 1 and len(seen) > 3


@every_kind
def test_everything_is_on_the_disk_before_it_gets_its_name(saved):
    kind, root, _ = saved
    synced, moved = set(), []

    def look(event, arguments):
        if event == "fsync":
            synced.add(os.readlink(f"/proc/self/fd/{arguments[0]}"))
        elif event in ("os.rename", "ctypes.dlsym"):
            aside = [p for p in root.rglob("*") if p.relative_to(root).parts[0].startswith(".") and not p.is_symlink()]
            assert {str(path) for path in aside} <= synced
            moved.append(len(aside))
            synced.discard(str(root))

    with before_each_operation(look):
        kind.save(root, 1)
    assert max(moved) > 0 and str(root) in synced  # its new name, too


DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "flipped": lambda file: file.write_bytes(flipped(file.read_bytes())),
    "missing": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "another": lambda file: file.write_bytes(b"{}"),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
}
UNREAD = ("policy_preprocessor.json", "policy_postprocessor.json")  # LeRobot's


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x80 for byte in data[middle : middle + 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
@every_folder
def test_damage_to_any_file_is_refused_in_one_line_that_names_it(saved, damage):
    kind, root, found = saved
    folder = kind.place(root)
    for file in sorted(folder.iterdir()):
        was = file.read_bytes()
        DAMAGE[damage](file)
        if file.name in UNREAD or (file.exists() and file.read_bytes() == was):
            assert kind.read(root) == found[0]
        else:
            with pytest.raises(UserError, match=re.escape(str(file))) as refused:
                kind.read(root)
            assert "\n" not in str(refused.value)
        file.write_bytes(was)
    (folder / "notes.txt").write_text("of the user")
    assert kind.read(root) == found[0]


@every_folder
def test_nothing_is_pickled(saved):
    """Every file is JSON or tensors, by its name and by what is in it."""
    kind, root, _ = saved
    for file in kind.place(root).iterdir():
        assert file.suffix in (".json", ".safetensors", "")
        if file.suffix == ".json":
            assert file.read_bytes()[:1] in b"[{"
        elif file.suffix:
            read_tensors(file)


@every_kind
def test_what_dead_processes_left_is_cleared_and_what_is_not_theirs_is_left_alone(saved):
    kind, root, _ = saved
    names, living = os.listdir(root), os.getppid()
    others = [".DS_Store", f".{names[0]}", ".notes.9999999", *(f".{name}.{living}" for name in names)]
    for name in others:
        (root / name).write_bytes(b"")
    for name in names:
        (root / f".{name}.9999999").mkdir()  # no system has so many processes, and this one is not saving now
        (root / f".{name}.9999999" / "half").write_bytes(b"half")
        (root / f".{name}.{os.getpid()}").symlink_to("half")
        (root / f".{name}.9999998").write_bytes(b"no folder")
        (root / f".{name}.{10**30}").write_bytes(b"")
    kind.save(root, 0)
    assert sorted(os.listdir(root)) == sorted([*names, *others])
