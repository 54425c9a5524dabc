"""Files and folders that appear completely or not at all: one atomic rename, manifests, versions, locks. No torch here.

`aside_of(path)` gives a hidden name beside `path` to write to, `put` syncs what is there and moves it to `path`.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from worldmodel.errors import UserError

MANIFEST = "manifest.json"
OLD = ".old"  # suffix of the hidden name of a folder that is being replaced
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
FORMAT = 8
"""The format of checkpoints, and of benchmarks resumed from them. Increment it with every change of what they contain,
be it a key or a tensor; older formats cannot be read."""
CHECKOUT = Path(__file__).resolve().parents[2]


class FolderError(UserError):
    """A saved folder cannot be read; the message names the file and what is wrong with it."""


def replace_file(path: Path, data: bytes) -> None:
    """Atomically replace the file `path` by `data`, keeping its mode. On OSError the file is left as it was."""
    with aside_of(path) as aside:
        aside.write_bytes(data)
        if path.exists():
            shutil.copymode(path, aside)
        put(aside, path)


def write_folder(path: Path, files: Mapping[str, bytes | Callable[[Path], None]], versions: dict[str, str]) -> None:
    """Write `files`, by name their bytes or what writes them, and a manifest as the folder `path`, or nothing.

    An existing folder stays until it is exchanged for the new one. Raises OSError (e.g. disk full, permission denied)
    after removing what was partly written.
    """
    with aside_of(path) as aside:
        aside.mkdir()
        for name, content in files.items():
            if isinstance(content, bytes):
                (aside / name).write_bytes(content)
            else:
                content(aside / name)
        (aside / MANIFEST).write_bytes(manifest(aside, files, versions))
        put(aside, path)


def check_place(folder: Path, replaced: Iterable[str] = ()) -> None:
    """Raise FileExistsError unless a folder can be written there, in the place of none, an empty one, or `replaced`."""
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} in (set(), {*replaced})):
        raise FileExistsError(f"{folder}: already there; give a new folder")
    within = next(parent for parent in folder.absolute().parents if parent.exists())
    if not within.is_dir() or not os.access(within, os.W_OK | os.X_OK):
        raise FileExistsError(f"{folder}: {within} is no folder that can be written to; give another")


def manifest(folder: Path, names: Iterable[str], versions: dict[str, str]) -> bytes:
    """Return the contents of manifest.json for the files `names` of a folder."""
    sums = {name: dict(zip(("bytes", "sha256"), sum_of(folder / name), strict=True)) for name in names}
    return json.dumps({"versions": versions, "files": sums}, indent=1).encode()


def sum_of(path: Path) -> tuple[int, str]:
    """Return the size and SHA-256 sum of a file, without reading it into memory as a whole."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def check_folder(path: Path, needed: tuple[str, ...]) -> dict:
    """Verify the `needed` files of a folder against its manifest; return its versions. Raises FolderError."""
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder")
    try:
        found = json.loads((path / MANIFEST).read_text())
        for name in needed:
            entry = found["files"][name]
            if sum_of(path / name) != (entry["bytes"], entry["sha256"]):
                raise FolderError(f"{path / name}: damaged (its SHA-256 is not the one in {MANIFEST})")
        return found["versions"] | {}
    except FileNotFoundError as error:
        raise FolderError(f"{error.filename}: missing, so {path} is not whole") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FolderError(f"{path / MANIFEST}: not a manifest of {', '.join(needed)}") from error


@contextmanager
def aside_of(path: Path) -> Iterator[Path]:
    """Yield a free, hidden path beside `path`, removed on exit; clear what killed processes left. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_aside(path.parent, re.escape(path.name))
    aside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield aside
    finally:
        _remove(aside)


def put(aside: Path, path: Path) -> None:
    """Sync all of `aside` to disk and move it to `path` in one step; a folder already there is moved to `aside`."""
    if not aside.is_symlink():
        _sync_tree(aside)
    if _is_folder(aside) and path.exists():
        _exchange(aside, path)
    else:
        os.rename(aside, path)
    sync(path.parent)


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
    _remove(old)


def clear_aside(folder: Path, names: str) -> None:
    """Remove what dead processes, or this one, left aside for names like `names`; a folder's only copy is put back."""
    for name in os.listdir(folder):  # unlike Path.glob, this leaves no directory open when a signal interrupts it
        found = re.fullmatch(rf"\.({names})\.([0-9]+)({re.escape(OLD)})?", name)
        if not found or _runs(int(found[2])):
            continue
        if found[3] and not (folder / found[1]).exists():
            os.rename(folder / name, folder / found[1])
        else:
            _remove(folder / name)


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


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    """Fsync a file, or every file and folder under `path`."""
    inside = [Path(folder, name) for folder, _, files in os.walk(path) for name in (*files, "")]
    for each in inside or [path]:
        sync(each)


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stamped(rest: object) -> str:
    """Return the name of a new folder: the time now, and `rest`."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{rest}"


def forget_oldest(files: Iterable[Path], most_bytes: float, needed: Collection[Path] = ()) -> None:
    """Delete files, the oldest first, until all take at most so many bytes; not those `needed`."""
    sizes = {path: path.stat() for path in files}
    total = sum(each.st_size for each in sizes.values())
    for path, each in sorted(sizes.items(), key=lambda item: item[1].st_mtime_ns):
        if total > most_bytes and path not in needed:
            total -= each.st_size
            path.unlink()


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


def check_format(where: Path | str, found: object, commit: str = "") -> None:
    """Raise FolderError unless `found` is the current `FORMAT`; `commit`: that wrote `where`, if known."""
    if type(found) is not int or found != FORMAT:
        other = f"train again, or use the commit that made it{f' ({commit})' if commit else ''}"
        raise FolderError(f"{where}: of format {found}, this Semagram reads {FORMAT}; {other}")


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("semagram", "torch", "numpy", "mujoco", "gymnasium")}


def made_by() -> dict[str, str]:
    """Return the `versions` entry of a checkpoint's manifest: the package versions and the commit of the code."""
    return versions() | {"commit": commit()}


@cache
def commit() -> str:
    """Return this checkout's short commit hash, with "+" if modified; "v" and the version outside of one."""
    try:
        if _git("rev-parse", "--show-prefix"):
            return f"v{version('semagram')}"
        head, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"v{version('semagram')}"
    return head + "+" * bool(changed)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
