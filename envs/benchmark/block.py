"""Generated blocks of a Markdown file, from `<!-- name:begin -->` to `<!-- name:end -->`."""

from pathlib import Path

from policies.storage.folders import replace_file
from worldmodel.errors import UserError


class BlockError(UserError):
    """The markers of a block are missing, duplicated or in the wrong order."""


def update_block(path: Path, name: str, text: str) -> bool:
    """Write `text` between the markers of block `name`; return True if that changed the file.

    Raises BlockError unless the file has exactly one pair of markers in order, and OSError.
    """
    content = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, first, rest = content.partition(begin)
    _, last, tail = rest.partition(end)
    if not last or content.count(begin) + content.count(end) != 2:
        raise BlockError(f"{path}: one line '{begin}' and below it one '{end}' are needed")
    changed = f"{head}{first}\n{text.strip()}\n{last}{tail}"
    if changed != content:
        replace_file(path, changed.encode())
    return changed != content
