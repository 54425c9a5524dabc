"""The version of the running code."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


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
