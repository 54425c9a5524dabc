"""Results of runs, read from the runs' own summary.json files or from a CSV file of such rows."""

import csv
import io
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from policies.storage.folders import replace_file
from worldmodel.errors import UserError
from worldmodel.strict import build


class ResultsError(UserError):
    """A results or metrics file is unusable; the one-line message says which, where, and what is expected."""


@dataclass(frozen=True)
class Result:
    """One run: an agent trained on a task with a seed for `env_steps` environment steps, action repeats included.

    `agent` is "semagram", "tdmpc2" or a variant's name. `returns` are the undiscounted returns of the final
    evaluation's `episodes` episodes, `return_mean` and `return_std` their mean and standard deviation;
    `policy_return_mean` is the mean return of the policy without the planner. `gflop_per_control_step` counts update
    and planning (10^9 operations). None: not measured. Raises ValueError for a non-finite number or a number of returns
    other than `episodes`.
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
        numbers = [value for value in vars(self).values() if isinstance(value, float)]
        if not all(map(math.isfinite, (*numbers, *self.returns))):
            raise UserError("a number is not finite")
        if len(self.returns) != self.episodes or not self.episodes:
            raise UserError(f"returns: {self.episodes} episodes, but {len(self.returns)} returns")


COLUMNS = tuple(field.name for field in fields(Result))


def read(path: Path | str) -> list[Result]:
    """Read a folder of runs, whose name is the agent's, or a CSV file. Raises ResultsError, OSError."""
    path = Path(path)
    return [*(_runs(path) if path.is_dir() else _rows(path))]


def write(path: Path, results: Sequence[Result]) -> None:
    """Write results as a CSV file, atomically. Raises OSError."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(result) | {"returns": " ".join(map(repr, result.returns))} for result in results)
    replace_file(path, text.getvalue().encode())


def run_of(folder: Path, agent: str) -> Result | None:
    """Return the result of a run folder; None before its end. Raises ResultsError if its files are damaged."""
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_bytes())
        asked = re.search(r"^steps: (\d+)$", (folder / "config.yaml").read_text(), re.MULTILINE)
        # Several environments may take a few steps more; published returns are looked up by the steps asked for.
        steps = min(found["env_steps"], int(asked[1])) if asked else found["env_steps"]
        known = {name: found[name] for name in COLUMNS if name in found}
        return _result(known | {"agent": agent, "env_steps": steps, "device": device(found["device"])})
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:  # ValueError: not JSON, not text, or no such result
        said = f"damaged, not the summary of a run ({error})"
        raise ResultsError(f"{path}: {said}; delete it, and the run is finished anew") from error


def _result(row: Mapping) -> Result:
    return build(Result, dict(row))


def _runs(folder: Path) -> Iterator[Result]:
    agent = folder.resolve().name
    found = (run_of(path.parent, agent) for path in sorted(folder.glob("*/summary.json")))
    yield from (result for result in found if result is not None)


def _rows(path: Path) -> Iterator[Result]:
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: {error}") from error
    for number, row in enumerate(lines, start=2):
        try:
            yield _result({name: _value(name, row[name]) for name in COLUMNS})
        except (KeyError, TypeError, ValueError) as error:
            said = f"no column {error}" if isinstance(error, KeyError) else error
            raise ResultsError(f"{path}, line {number}: {said}") from error


def _value(name: str, text: str):
    """Parse a cell as the type of its column: text, words of numbers, or a number, empty for None."""
    if name in ("task", "agent", "device", "commit"):
        return text
    if name == "returns":
        return tuple(map(float, text.split()))
    return json.loads(text.replace("nan", "NaN").replace("inf", "Infinity")) if text else None


def device(name: str) -> str:
    """Return the name of the device; for `cpu`, the processor's model name if known."""
    if name != "cpu":
        return name
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def latest(results: Sequence[Result]) -> list[Result]:
    """Return the results in order, of a repeated run only the last."""
    return list({(r.agent, r.task, r.seed, r.env_steps): r for r in results}.values())
