"""Which code wrote what is saved: the format number, the commit, the versions of packages."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from policies.storage.folders import FolderError

FORMAT = 7
"""The format of checkpoints, and of benchmarks resumed from them. Increment it with every change of what they contain,
be it a key or a tensor; older formats cannot be read."""
CHECKOUT = Path(__file__).resolve().parents[2]


def check_format(where: Path | str, found: object, commit: str = "") -> None:
    """Raise FolderError, in one line, unless `found` is the current `FORMAT`.

    `commit`: the commit of the code that wrote `where`; empty if unknown.
    """
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
    """Return the short hash of this checkout's commit at the first call, with a "+" if tracked files were modified.

    If the code is not in a git checkout of its own (e.g. it is installed inside another one), return "v" and the
    package version.
    """
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
