"""The part of a Markdown file that a command writes: from `<!-- name:begin -->` to `<!-- name:end -->`."""

from pathlib import Path

from policies.storage.files import replace_file
from worldmodel.mistakes import Mistake


class BlockError(Mistake):
    """The markers of a block are missing, doubled or in the wrong order."""


def update_block(path: Path | str, name: str, text: str) -> bool:
    """Put `text` between the markers of block `name`; True if that changed the file.

    Raises BlockError if the file has not exactly one pair of markers, and OSError.
    """
    path = Path(path)
    before, inside, after = _split(path, name)
    if inside == _framed(text):
        return False
    replace_file(path, (before + _framed(text) + after).encode())
    return True


def block_is_current(path: Path | str, name: str, text: str) -> bool:
    """Whether `text` is what stands between the markers. Raises as `update_block` does."""
    return _split(Path(path), name)[1] == _framed(text)


def _framed(text: str) -> str:
    return f"\n{text.strip()}\n"


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """What stands up to and with the begin marker, between the markers, and from the end marker on."""
    content = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    for marker in (begin, end):
        if content.count(marker) != 1:
            raise BlockError(f"{path}: {content.count(marker)} lines '{marker}', there must be one")
    first, last = content.index(begin) + len(begin), content.index(end)
    if last < first:
        raise BlockError(f"{path}: '{end}' stands before '{begin}'")
    return content[:first], content[first:last], content[last:]
