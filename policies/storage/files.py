"""Files that are whole or as they were: written aside, fsynced, renamed. Nothing heavy is imported."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of the file `path` in one step; its mode stays. Raises OSError; it is then as it was."""
    with replacing(path) as aside:
        write_synced(aside, data)
        if path.exists():
            shutil.copymode(path, aside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free name beside `path`: put there, it takes its place in one step, unless something is raised."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def locked(path: Path) -> int | None:
    """A descriptor of a file or folder, which is ours while it, or a child's copy, is open; None if another has it."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def sync(path: Path) -> None:
    """Wait until the disk has what is in a file, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
