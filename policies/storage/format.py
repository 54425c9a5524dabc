"""The format number of saved data, and the check that rejects all others."""

from pathlib import Path

from policies.storage.folders import FolderError

FORMAT = 7
"""The format of checkpoints, and of benchmarks resumed from them. Increment it with every change of what they contain,
be it a key or a tensor; older formats cannot be read."""
UNNUMBERED = 0
"""Stands for what was saved before formats were numbered."""


def check_format(where: Path | str, found: object, commit: str = "") -> None:
    """Raise FolderError, in one line, unless `found` is the current `FORMAT`.

    `commit`: the commit of the code that wrote `where`; empty if unknown.
    """
    if type(found) is not int or found != FORMAT:
        other = f"train again, or use the commit that made it{f' ({commit})' if commit else ''}"
        raise FolderError(f"{where}: of format {found}, this Semagram reads {FORMAT}; {other}")
