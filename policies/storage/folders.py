"""Folders that are whole or absent: written aside, fsynced, renamed; each with a manifest of sizes and SHA-256 sums."""

import ctypes
import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from policies.storage.files import sync, write_synced
from worldmodel.mistakes import Mistake

MANIFEST = "manifest.json"
OLD = ".old"
"""Behind the hidden name of a folder that is about to be replaced."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class FolderError(Mistake):
    """A saved folder cannot be read; the message says which file and what is wrong with it."""


def write_folder(path: Path, files: Mapping[str, bytes | Mapping[str, Tensor]], versions: dict[str, str]) -> None:
    """Write `files`, bytes or tensors, and their manifest as the folder `path`, which appears complete or not at all.

    A folder that is already there stays until it is exchanged for the new one. Raises OSError (a full disk, a missing
    right); what was half-written is removed.
    """
    with aside_of(path) as aside:
        aside.mkdir()
        for name, content in files.items():
            if isinstance(content, bytes):
                write_synced(aside / name, content)
            else:
                _write_tensors(aside / name, content)
        write_synced(aside / MANIFEST, manifest({name: aside / name for name in files}, versions))
        sync(aside)
        put(aside, path)


def manifest(files: Mapping[str, bytes | Path], versions: dict[str, str]) -> bytes:
    """What manifest.json says of files, from what is in them or from where they are."""
    sums = {name: dict(zip(("bytes", "sha256"), _sum(content), strict=True)) for name, content in files.items()}
    return json.dumps({"versions": versions, "files": sums}, indent=1).encode()


def _sum(content: bytes | Path) -> tuple[int, str]:
    """The size and the SHA-256 sum of bytes, or of a file, which is not held in memory."""
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.seek(0, os.SEEK_END), digest


@contextmanager
def aside_of(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, to write to first: free at the beginning, and removed at the end if still there.

    What processes that are no more (a kill -9) left there is removed, too. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{os.getpid()}"
    clear_aside(path.parent, re.escape(path.name))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear_aside(folder: Path, names: str) -> None:
    """Remove what lies aside in a folder for names of this pattern: of processes that are no more, and of this one.

    What a kill caught in the middle of an exchange, so that it is the only copy, gets its name back.
    """
    for name in os.listdir(folder):  # which a signal cannot leave open, as it can what Path.glob does
        found = re.fullmatch(rf"\.({names})\.([0-9]+)({re.escape(OLD)})?", name)
        if not found or _runs(int(found[2])):
            continue
        path = folder / name
        if found[3] and not (folder / found[1]).exists():
            os.rename(path, folder / found[1])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether it is another process that is there."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def put(aside: Path, path: Path) -> None:
    """Let the folder `aside` become `path` in one step; what was there becomes `aside`, or is removed."""
    if path.exists():
        _exchange(aside, path)
    else:
        os.rename(aside, path)
    sync(path.parent)


def sync_tree(path: Path) -> None:
    """Wait until the disk has every file and name under a folder."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def _exchange(aside: Path, path: Path) -> None:
    """Let two folders change names in one step; where the system cannot, `path` is absent for a moment."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if swap and swap(AT_FDCWD, os.fsencode(aside), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE) == 0:
        return
    old = aside.with_name(aside.name + OLD)
    os.rename(path, old)
    try:
        os.rename(aside, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_folder(path: Path, needed: tuple[str, ...]) -> dict:
    """The manifest of a folder whose needed files are there with their recorded sums. Raises FolderError."""
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder")
    try:
        said = json.loads((path / MANIFEST).read_text())
        files = said["files"]
        for name in needed:
            entry = files[name]
            if _sum(path / name) != (entry["bytes"], entry["sha256"]):
                raise FolderError(f"{path / name}: damaged (its SHA-256 is not the one in {MANIFEST})")
    except FileNotFoundError as error:
        raise FolderError(f"{error.filename}: missing, so {path} is not whole") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FolderError(f"{path / MANIFEST}: not a manifest of {', '.join(needed)}") from error
    return said


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format."""
    return save(_plain(tensors))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors without a copy of them and wait until the disk has them. Raises OSError."""
    path.touch()
    mode = path.stat().st_mode  # safetensors makes files that nobody else may read
    try:
        save_file(_plain(tensors), path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error
    path.chmod(mode)
    sync(path)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


class Tensors(dict[str, Tensor]):
    """Tensors by name, out of the file at `path`, in which `prefix` stood before the names.

    To ask for one that is not there raises FolderError, naming file and tensor: a KeyError is a defect of the code.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, prefix: str = ""):
        super().__init__(tensors)
        self.path, self.prefix = path, prefix

    def __missing__(self, name: str) -> Tensor:
        """Raise FolderError."""
        raise FolderError(f"{self.path}: {self.prefix}{name} is missing")


def part(saved: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix`, without it; of a file, if the others are."""
    found = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
    return Tensors(found, saved.path, f"{saved.prefix}{prefix}") if isinstance(saved, Tensors) else found


def read_tensors(path: Path) -> Tensors:
    """Tensors of a safetensors file. Raises FolderError."""
    try:
        return Tensors(load_file(path), path)
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{path}: not readable as safetensors ({error})") from error
