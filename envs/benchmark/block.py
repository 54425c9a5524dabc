"""Generated blocks of a Markdown file, from `<!-- name:begin -->` to `<!-- name:end -->`."""

from pathlib import Path

from policies.storage.files import replace_file
from worldmodel.mistakes import Mistake


class BlockError(Mistake):
    """The markers of a block are missing, duplicated or in the wrong order."""


def update_block(path: Path | str, name: str, text: str) -> bool:
    """Write `text` between the markers of block `name`; return True if that changed the file.

    Raises BlockError unless the file has exactly one pair of markers in order, and OSError.
    """
    path = Path(path)
    before, inside, after = _split(path, name)
    if inside == _framed(text):
        return False
    replace_file(path, (before + _framed(text) + after).encode())
    return True


def block_is_current(path: Path | str, name: str, text: str) -> bool:
    """Return whether `text` is already between the markers. Raises as `update_block` does."""
    return _split(Path(path), name)[1] == _framed(text)


def _framed(text: str) -> str:
    return f"\n{text.strip()}\n"


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """Split the file into the text up to and including the begin marker, between the markers, and the rest."""
    content = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    for marker in (begin, end):
        if content.count(marker) != 1:
            raise BlockError(f"{path}: {content.count(marker)} lines '{marker}', there must be one")
    first, last = content.index(begin) + len(begin), content.index(end)
    if last < first:
        raise BlockError(f"{path}: '{end}' stands before '{begin}'")
    return content[:first], content[first:last], content[last:]
