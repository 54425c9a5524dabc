"""Which code is running."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


@cache
def commit() -> str:
    """The commit this code was at when that was first asked, with a + where it was changed since.

    Outside a checkout its version.
    """
    try:
        head, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"v{version('semagram')}"
    return head + "+" * bool(changed)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
