"""Which code is running."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def commit() -> str:
    """The commit this code was at when that was first asked, with a + where it was changed since.

    Outside a checkout of its own, as where it is installed somewhere in another one, its version.
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
