"""results.csv: one line per finished run, appended atomically. Several processes may append at once."""

import csv
import errno
import fcntl
import io
import math
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from worldmodel.mistakes import Mistake


class ResultsError(Mistake):
    """A results or metrics file is unusable; the one-line message says which, where, and what is expected."""


@dataclass(frozen=True)
class Result:
    """One run: an agent trained on a task with a seed for `env_steps` environment steps, action repeats included.

    `agent` is "semagram", "tdmpc2" or an ablation's name. `returns` are the undiscounted returns of the final
    evaluation's `episodes` episodes, `return_mean` and `return_std` their mean and standard deviation;
    `policy_return_mean` is the mean return of the policy without the planner. `gflop_per_control_step` counts update
    and planning (10^9 operations). None: not measured. Raises ValueError for a non-finite number, a number of returns
    other than `episodes`, no episodes, or text of several lines.
    """

    task: str
    seed: int
    agent: str
    env_steps: int
    return_mean: float
    return_std: float
    episodes: int
    policy_return_mean: float | None
    train_seconds: float
    env_steps_per_second: float
    gflop_per_control_step: float | None
    decisions_per_second: float | None
    parameters: int | None
    device: str
    commit: str
    returns: tuple[float, ...]

    def __post_init__(self):
        """Check for errors that would silently corrupt a table."""
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}={value}: a finite number")
        if not all(map(math.isfinite, self.returns)):
            raise ValueError("returns: finite numbers")
        if len(self.returns) != self.episodes or not self.episodes:
            raise ValueError(f"returns: {self.episodes} episodes, but {len(self.returns)} returns")
        for name in TEXTS:
            if "\n" in getattr(self, name) or "\r" in getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r}: one line")


COLUMNS = tuple(field.name for field in fields(Result))
NUMBERS = {field.name: field.type for field in fields(Result) if field.type not in (str, tuple[float, ...])}
TEXTS = ("task", "agent", "device", "commit")
HEADER = (",".join(COLUMNS) + "\n").encode()


def read(path: Path | str) -> list[Result]:
    """Read all results in file order. A torn last line (from a killed writer) is dropped, with a note on stderr.

    Raises ResultsError for a missing or malformed file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    whole = _whole(path, data)
    try:
        lines = data[:whole].decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not UTF-8 text at byte {error.start}") from error
    if not lines:
        return []
    return [_parse(line, path, number) for number, line in enumerate(lines[1:], start=2)]


def append(path: Path | str, result: Result) -> None:
    """Append one line (and the header to a new file) in a single write, then fsync. Safe from several processes.

    A torn last line is removed first, with a note on stderr. Raises ResultsError if the file is not a results file,
    and OSError if the line cannot be written (e.g. a full disk); the file is then left without the new line.
    """
    path = Path(path)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released with the descriptor, even by a kill
        data = path.read_bytes()
        whole = _whole(path, data)
        if whole < len(data):
            os.ftruncate(descriptor, whole)
        line = (b"" if whole else HEADER) + _format(result)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, whole)
            raise
    finally:
        os.close(descriptor)


def latest(results: list[Result]) -> list[Result]:
    """Return one result per (task, seed, agent, env_steps): the last line of a repeated run."""
    return list({(r.task, r.seed, r.agent, r.env_steps): r for r in results}.values())


def _whole(path: Path, data: bytes) -> int:
    """Return the length of `data` up to its last complete line, noting on stderr if that is not all of it.

    Raises ResultsError for a wrong header.
    """
    whole = data.rfind(b"\n") + 1
    torn = data[whole:]
    header = data[: data.find(b"\n") + 1] if whole else b""
    if (whole and header != HEADER) or (not whole and not HEADER.startswith(torn)):
        raise ResultsError(f"{path}, line 1: the header must be {','.join(COLUMNS)}")
    if torn:
        print(f"warning: {path}: dropped a torn last line ({len(torn)} bytes)", file=sys.stderr)
    return whole


def _format(result: Result) -> bytes:
    cells = {name: getattr(result, name) for name in COLUMNS}
    cells |= {name: "" if cells[name] is None else repr(cells[name]) for name in NUMBERS}
    cells["returns"] = " ".join(map(repr, result.returns))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells.values())
    return text.getvalue().encode()


def _parse(line: str, path: Path, number: int) -> Result:
    where = f"{path}, line {number}"
    try:
        cells = next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise ResultsError(f"{where}: {error}") from error
    if len(cells) != len(COLUMNS):
        raise ResultsError(f"{where}: {len(cells)} cells, there must be {len(COLUMNS)}, as in the header")
    row = dict(zip(COLUMNS, cells, strict=True))
    try:
        return Result(**{name: _value(name, text) for name, text in row.items()})
    except ValueError as error:
        raise ResultsError(f"{where}: {error}") from error


def _value(name: str, text: str):
    """Parse a cell as the type of its column."""
    if name in TEXTS:
        return text
    if name == "returns":
        return tuple(_number(name, float, word) for word in text.split())
    kind = NUMBERS[name]
    if text == "" and kind in (float | None, int | None):
        return None
    return _number(name, int if kind in (int, int | None) else float, text)


def _number(name: str, kind: type, text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: {'a whole number' if kind is int else 'a number'}") from None
