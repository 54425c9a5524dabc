"""Atomically written folders (temporary folder, fsync, rename), each with a manifest of sizes and SHA-256 sums."""

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
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from policies.storage.files import sync, write_synced
from worldmodel.errors import UserError

MANIFEST = "manifest.json"
OLD = ".old"
"""Suffix of the hidden name of a folder that is being replaced."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class FolderError(UserError):
    """A saved folder cannot be read; the message names the file and what is wrong with it."""


def write_folder(path: Path, files: Mapping[str, bytes | Mapping], versions: dict[str, str]) -> None:
    """Write `files`, bytes or tensors by name, and their manifest as the folder `path`, completely or not at all.

    An existing folder stays until it is exchanged for the new one. Raises OSError (e.g. disk full, permission denied)
    after removing what was partly written.
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
    """Return the contents of manifest.json for `files`, given by name as their bytes or their paths."""
    sums = {name: dict(zip(("bytes", "sha256"), _sum(content), strict=True)) for name, content in files.items()}
    return json.dumps({"versions": versions, "files": sums}, indent=1).encode()


def _sum(content: bytes | Path) -> tuple[int, str]:
    """Return the size and SHA-256 sum of bytes, or of a file without reading it into memory as a whole."""
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.seek(0, os.SEEK_END), digest


@contextmanager
def aside_of(path: Path) -> Iterator[Path]:
    """Yield a free, hidden path next to `path` to write to first; if it still exists on exit, it is removed.

    What dead processes (kill -9) left behind for `path` is cleared first. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{os.getpid()}"
    clear_aside(path.parent, re.escape(path.name))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear_aside(folder: Path, names: str) -> None:
    """Remove what dead processes, or this one, left aside in a folder for names that match the pattern `names`.

    If a process was killed in the middle of an exchange, so that the old folder is the only copy, it is renamed back.
    """
    for name in os.listdir(folder):  # unlike Path.glob, this leaves no directory open when a signal interrupts it
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
    """Return whether `process` is the id of another process that is running."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True


def put(aside: Path, path: Path) -> None:
    """Move the folder `aside` to `path` in one step; a folder already there is moved to `aside`, or removed."""
    if path.exists():
        _exchange(aside, path)
    else:
        os.rename(aside, path)
    sync(path.parent)


def sync_tree(path: Path) -> None:
    """Fsync every file and folder under `path`."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def _exchange(aside: Path, path: Path) -> None:
    """Exchange two folders atomically; if the system cannot, `path` is briefly absent and the old folder is deleted."""
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
    """Verify the `needed` files of a folder against its manifest, and return the manifest. Raises FolderError."""
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


Nested = Mapping[str, Any]
"""Tensors by name, and groups of them by name, to any depth."""


def tensor_bytes(tensors: Nested) -> bytes:
    """Serialise tensors in the safetensors format."""
    return save(_flat(tensors))


def _write_tensors(path: Path, tensors: Nested) -> None:
    """Write tensors to a safetensors file without copying them in memory, and fsync it. Raises OSError."""
    path.touch()
    mode = path.stat().st_mode  # safetensors creates files that only the owner can read
    try:
        save_file(_flat(tensors), path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error
    path.chmod(mode)
    sync(path)


def _flat(nested: Nested, within: str = "") -> dict[str, Tensor]:
    """Return all tensors by their path in the nest, its names joined by a slash; empty groups are lost."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, Tensor):
            flat[within + name] = value.detach().cpu().contiguous()
        else:
            flat |= _flat(value, f"{within}{name}/")
    return flat


class Tensors(dict):
    """Tensors and groups of them by name, from the file at `path`, where they are in the group `within`.

    Looking up what is missing raises FolderError, naming the file and the tensor, since the file is at fault: a
    KeyError would mean a bug in the code.
    """

    def __init__(self, path: Path, within: str = ""):
        super().__init__()
        self.path, self.within = path, within

    def __missing__(self, name: str) -> Tensor:
        """Raise FolderError: the file has no such tensor."""
        raise FolderError(f"{self.path}: {self.within}{name} is missing")


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a safetensors file, nested as they were when written. Raises FolderError."""
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{path}: not readable as safetensors ({error})") from error
    whole = Tensors(path)
    for name, tensor in saved.items():
        group, (*groups, last) = whole, name.split("/")
        for each in groups:
            group = group.setdefault(each, Tensors(path, f"{group.within}{each}/"))
        group[last] = tensor
    return whole
