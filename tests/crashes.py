"""Kills a save before each of its operations on the disk and says what is then there; test_folders.py runs it.

    python crashes.py FOLDER

The last line of its output is JSON: for each kind of save a list of what a reader found after each kill, `old`, `new`
or what is wrong.
"""

import errno
import json
import os
import resource
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from policies.storage.checkpoint import (
    CONFIG,
    LAST,
    MODEL,
    check_resumable,
    newest,
    save_checkpoint,
)
from policies.storage.folders import FolderError, check_folder, write_folder

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree", "fsync"}


def kill_before(operation: int, root: str) -> None:
    """Arm this process to die just before its so-manieth operation on the disk under `root`."""
    left = [operation]

    def count(event, arguments):
        if event in OPERATIONS and (event == "fsync" or root in str(arguments[:2])):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def counted(handle):
        count("fsync", ())
        fsync(handle)

    os.fsync = counted
    sys.addaudithook(count)


def kill_everywhere(root: Path, prepare: Callable[[], None], save: Callable[[], None], read: Callable[[], str]):
    """Prepare, save, be killed and read, one operation later each time, until the save gets through."""
    found, through = [], False
    while not through:
        shutil.rmtree(root, ignore_errors=True)
        prepare()
        child = os.fork()
        if not child:
            try:
                kill_before(len(found), str(root))
                save()
            finally:
                os._exit(1 if sys.exception() else 0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise RuntimeError("the save failed by itself")
        through = os.WIFEXITED(status)
        try:
            found.append(read())
        except (FolderError, OSError) as error:
            found.append(repr(error))
    return found


def folder(root: Path) -> list[str]:
    """One folder is put in the place of another."""
    path = root / "saved"

    def save(text):
        write_folder(path, {"a": text.encode() * 5000, "b": b"always"}, {})

    def read():
        check_folder(path, ("a", "b"))
        return (path / "a").read_text()[:3]

    return kill_everywhere(root, lambda: save("old"), lambda: save("new"), read)


def checkpoint(root: Path) -> list[str]:
    """A run's next checkpoint, of which one is kept; and afterwards that one written again."""
    toys = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["TOYS"]
    trainer = toys.trainer(toys.slides(5, 7))
    names = {f"{2 * 8:09d}": "old", f"{2 * 12:09d}": "new"}

    def save():
        save_checkpoint(root, toys.spec(trainer), trainer.state_dict(), {"seconds": 0}, 1)

    def read():
        path = newest(root)
        check_resumable(path)
        check_folder(root / LAST, (CONFIG, MODEL))
        return names[path.name]

    toys.run(trainer, 8)
    save()
    shutil.copytree(root, first := root.with_name("first"), symlinks=True)
    toys.run(trainer, 12)
    found = kill_everywhere(root, lambda: shutil.copytree(first, root, symlinks=True), save, read)
    shutil.copytree(root, second := root.with_name("second"), symlinks=True)
    again = kill_everywhere(root, lambda: shutil.copytree(second, root, symlinks=True), save, read)
    if set(again) != {"new"}:
        found.append(f"written again: {set(again)}")
    toys.resume(newest(root), toys.trainer(toys.slides(5, 7), weights=1))
    if left := [p.name for p in root.iterdir() if p.name not in (LAST, newest(root).name)]:
        found.append(f"left behind: {left}")
    return found


def full(root: Path) -> list[str]:
    """A disk on which a file of more than 8 kB finds no room."""
    path = root / "saved"
    write_folder(path, {"a": b"old", "b": b"old"}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    found = []
    tensors = {"t": torch.zeros(5000)}
    for files in ({"a": b"new" * 5000, "b": b"new"}, {"a": b"new", "b": b"new" * 5000}, {"a": b"new", "b": tensors}):
        try:
            write_folder(path, files, {})
        except OSError as error:
            found.append(errno.errorcode[error.errno])
        check_folder(path, ("a", "b"))
        found.append((path / "a").read_text())
        found += [p.name for p in root.iterdir() if p != path]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for act in (folder, checkpoint, full):
        here = Path(sys.argv[1]) / act.__name__ / "here"
        here.mkdir(parents=True)
        found[act.__name__] = act(here)
    print(json.dumps(found))
