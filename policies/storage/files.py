"""Atomic file replacement: write to a temporary file, fsync, rename. Imports nothing heavy."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and fsync it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Atomically replace the file `path` by `data`, keeping its mode. On OSError the file is left as it was."""
    with replacing(path) as aside:
        write_synced(aside, data)
        if path.exists():
            shutil.copymode(path, aside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free temporary name next to `path`; on exit, what was created there atomically replaces `path`.

    If the body raises, `path` stays as it was and the temporary file is removed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def locked(path: Path) -> int | None:
    """Lock a file or folder; return a descriptor that holds the lock while open, also in a child, or None if taken."""
    lock = os.open(path, os.O_RDONLY)
    if claimed(lock):
        return lock
    os.close(lock)
    return None


def claimed(descriptor: int) -> bool:
    """Lock what a descriptor is open on for as long as that is; return False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
