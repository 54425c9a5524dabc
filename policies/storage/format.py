"""The format of what is saved: its number, and the refusal of any other."""

from pathlib import Path

from policies.storage.folders import FolderError

FORMAT = 5
"""Of checkpoints, and of a benchmark that goes on from them. Whoever changes what they hold, a key or a tensor, takes
the next number; nothing here reads an older one."""
UNNUMBERED = 0
"""What was saved before formats had numbers."""


def check_format(where: Path | str, found: object, commit: str = "") -> None:
    """Raise FolderError, in one line, unless `found` is the format that is read here.

    `commit`: of the code that saved what lies at `where`; empty where that is not known.
    """
    if type(found) is not int or found != FORMAT:
        other = f"train again, or use the commit that made it{f' ({commit})' if commit else ''}"
        raise FolderError(f"{where}: of format {found}, this Semagram reads {FORMAT}; {other}")
