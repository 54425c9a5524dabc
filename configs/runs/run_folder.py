"""A run's folder (config.yaml, metrics.csv, summary.json, checkpoints/), and going on with the run in it."""

import copy
import csv
import json
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from configs.arguments import GROUPS
from configs.reporting import say
from configs.schema import RESUMABLE, TRACKERS, TrainConfig
from policies.storage.checkpoint import LAST, PROGRESS, check_resumable, newest, saved_in
from policies.storage.folders import FolderError, aside_of, locked, put, replace_file
from worldmodel.learner import UPDATE_METRICS
from worldmodel.strict import ConfigError, build

COLUMNS = (
    *("env_steps", "decisions", "updates", "episode_return", "episode_length", "episode_success", "episode_driven"),
    *("eval_return", "eval_std", "eval_policy_return", "eval_success", "eval_policy_success", *UPDATE_METRICS),
    "plan_std",
)
GUIDED = ("guidance_satisfied", "policy_guidance_satisfied")  # further columns of a run under guidance
RECORDED = ("held_out_action_error", "held_out_value_auc")  # further columns of a run on recordings
TIMES = ("env_steps", "seconds", "env_steps_per_second", "plan_ms")
"""Columns of timing.csv: environment steps; seconds of training (without evaluations) so far, and steps per second;
the mean milliseconds of the newest thousand plans."""
PATIENCE_S = 60  # how long to wait for a folder whose last run is still saving a checkpoint


def point_last(path: Path) -> None:
    """Point the link runs/last at a run's folder, if that is below runs/. Raises OSError."""
    root = Path("runs").resolve()
    if path.resolve().is_relative_to(root) and path.resolve() != root:
        with aside_of(root / LAST) as link:
            link.symlink_to(path.resolve().relative_to(root))
            put(link, root / LAST)


class RunFolder:
    """Paths and writers of one run folder. Identical runs write the same files, except for the times in timing.csv."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics, self.timing = path / "metrics.csv", path / "timing.csv"

    @property
    def used(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return bool(saved_in(self.checkpoints))

    def take(self) -> int:
        """Lock the folder; return a descriptor that holds the lock while open. Raises FolderError if another does."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (lock := locked(self.path)) is None:
            raise FolderError(f"{self.path}: another semagram-train is running there")
        return lock

    def begin(self, config: dict) -> None:
        """Write the config and an empty metrics file, replacing those of an earlier run that saved no checkpoint."""
        for name in ("summary.json", "timing.csv", *(f"{name}.json" for name in TRACKERS)):
            (self.path / name).unlink(missing_ok=True)
        replace_file(self.path / "config.yaml", OmegaConf.to_yaml(config).encode())
        own = [f"loss_{name}" for name in config.get("learning", {}).get("losses", ())]
        own += GUIDED if config.get("task", {}).get("guidance") else ()
        own += RECORDED if config.get("data") else ()
        replace_file(self.metrics, (",".join([*COLUMNS, *own]) + "\n").encode())

    def config(self) -> dict:
        """Return the config in config.yaml. Raises FolderError if it is missing or damaged."""
        path = self.path / "config.yaml"
        if not path.is_file():
            raise FolderError(f"resume={self.path}: not a run folder (it has no config.yaml)")
        try:
            found = OmegaConf.to_container(OmegaConf.load(path))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:  # OSError: OmegaConf, for a lone number
            raise FolderError(f"{path}: damaged, not YAML ({' '.join(str(error).split())})") from error
        if not isinstance(found, dict) or "task" not in found:
            raise FolderError(f"{path}: damaged, not the config of a run (it names no task)")
        return found

    def metrics_size(self) -> int:
        """Sync metrics.csv to disk and return its size in bytes."""
        with open(self.metrics, "rb") as file:
            os.fsync(file.fileno())
        return self.metrics.stat().st_size

    def rewind(self, size: int) -> None:
        """Truncate metrics.csv to `size` bytes, timing.csv to as many rows. Raises FolderError if that is shorter."""
        if not self.metrics.is_file() or self.metrics.stat().st_size < size:
            raise FolderError(f"{self.metrics}: shorter than at the checkpoint, which had {size} bytes")
        os.truncate(self.metrics, size)
        if self.timing.is_file():
            rows = self.timing.read_bytes().splitlines(keepends=True)
            replace_file(self.timing, b"".join(rows[: self.metrics.read_bytes().count(b"\n")]))

    def column(self, name: str) -> list[tuple[int, float]]:
        """Return the environment steps and the value of each row of metrics.csv that has one in this column."""
        with open(self.metrics) as file:
            return [(int(row["env_steps"]), float(row[name])) for row in csv.DictReader(file) if row[name]]

    def log(self, row: dict[str, float | None]) -> None:
        """Append a row to metrics.csv: empty where None or NaN, without what the file has no column for."""
        with open(self.metrics) as file:
            columns = file.readline().strip().split(",")
        _append(self.metrics, [_number(row.get(name)) for name in columns])

    def log_times(self, times: dict[str, float | None]) -> None:
        """Append a row to timing.csv, by the names of `TIMES`."""
        if not self.timing.is_file():
            _append(self.timing, TIMES)
        _append(self.timing, [_number(times.get(name)) for name in TIMES])


def _append(path: Path, cells: Sequence[str]) -> None:
    with open(path, "a") as file:
        csv.writer(file, lineterminator="\n").writerow(cells)


def write_summary(folder: Path, result: dict) -> None:
    """Write summary.json to the folder of a run or an evaluation."""
    replace_file(folder / "summary.json", (json.dumps(result, indent=1) + "\n").encode())


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"


@dataclass(frozen=True)
class Progress:
    """What a run saves with each checkpoint.

    `config`: its config. `metrics_bytes`: the size of metrics.csv. `seconds`: time spent training. `evaluated`:
    environment steps at the last evaluation. `faults`: how often an environment was at fault.
    """

    config: dict
    metrics_bytes: int
    seconds: float
    evaluated: int
    faults: int = 0


def leaves(keys: dict, place: str = "") -> dict[str, object]:
    """Return the values of a config that are not groups, by their dotted names; tuples as lists, as in a file."""
    found: dict[str, object] = {}
    for name, value in keys.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{place}{name}.")
        else:
            found[f"{place}{name}"] = [*value] if isinstance(value, tuple) else value
    return found


def whole(keys: dict) -> dict:
    """Return the config of a run completed with defaults for missing keys, without `resume`. Raises ConfigError."""
    return asdict(build(TrainConfig, keys | {"resume": ""}))


def fixed(name: str) -> bool:
    """Return whether a dotted key must stay as it was when its run began."""
    return name.partition(".")[0] not in (*RESUMABLE, "resume")


def found(keys: dict, folder: Path) -> tuple[dict | None, dict, Collection[str]]:
    """Return the summary of the finished run in `folder` or None, the keys to train with, and which of them hold.

    For `resume=auto`: the same command again in a fixed folder begins its run, goes on with it, or finds it finished.
    Raises ConfigError for other settings than the run there has, or more steps than are asked for,
    and FolderError for a damaged summary or a folder that stays in use.
    """
    keys = whole(keys)
    if not (folder / "config.yaml").is_file():
        return None, keys, ()
    _wait(folder)
    written = whole(RunFolder(folder).config())
    if keys["guidance"] == written["guidance"]:  # whose folders may be gone
        keys["task"]["guidance"] = written["task"]["guidance"]
    now, begun = leaves(keys), leaves(written)
    for name, value in now.items():
        if fixed(name) and value != begun.get(name):
            raise ConfigError(f"{name}={value}: {folder} was begun with {begun.get(name)}; take another folder")
    summary = _summary(folder / "summary.json")
    wanted = keys["evaluation"]["stop_at_return"]
    if summary is not None and wanted is not None and summary.get("return_mean", wanted - 1) >= wanted:
        return summary, keys, ()
    if summary is not None and summary["env_steps"] >= keys["steps"]:
        if summary["env_steps"] >= keys["steps"] + keys["task"]["action_repeat"] * keys["envs"]:
            raise ConfigError(f"steps={keys['steps']}: {folder} has {summary['env_steps']} already")
        return summary, keys, ()
    if not any((folder / "checkpoints").glob("[0-9]*")):
        return None, keys, ()
    return None, keys | {"resume": str(folder)}, now.keys() - {"resume"}


def resumption(folder: RunFolder, keys: dict, given: Collection[str]) -> tuple[Path, TrainConfig, Progress]:
    """Return the checkpoint to resume in a run folder whose lock we hold, the config to go on with, and its progress.

    Of the keys that the user set (`given`, with their values in `keys`), only RESUMABLE ones may differ from the run's.
    Raises ConfigError for another or an invalid one, FolderError for a folder that is damaged or of another format.
    """
    written, path = folder.config(), newest(folder.checkpoints)
    try:
        saved = check_resumable(path)
        progress = build(Progress, saved)
        saved = leaves(whole(progress.config))
    except ConfigError as error:
        raise FolderError(f"{path / PROGRESS}: {error}") from error
    begun = leaves(whole(written))
    differing = [name for name in leaves(written) if fixed(name) and begun[name] != saved.get(name)]
    if other := "; ".join(f"{name}={saved.get(name)}, not {begun[name]}" for name in differing):
        raise FolderError(f"{folder.path / 'config.yaml'}: not what {path} was made with ({other})")
    return path, _changed(progress.config, keys, given), progress


def _changed(saved: dict, keys: dict, given: Collection[str]) -> TrainConfig:
    """Return `saved` with the RESUMABLE keys in `given` as in `keys`. Raises ConfigError for any other that differs."""
    was, wanted, changed = leaves(saved), leaves(keys), copy.deepcopy(saved)
    for name in sorted({*given} - {"resume"}):
        place = GROUPS.get(name, name)
        below = [key for key in wanted if key == place or key.startswith(f"{place}.")]
        if fixed(name):
            if not below or any(key not in was or wanted[key] != was[key] for key in below):
                can = f"on resuming, {', '.join(RESUMABLE)} can change"
                raise ConfigError(f"{name}: fixed when this run began; {can}")
        elif below != [name]:
            raise ConfigError(f"{name}: a group; on resuming, its keys are given one by one, {below[0]}=")
        else:
            group, _, leaf = name.rpartition(".")
            (changed[group] if group else changed)[leaf] = wanted[name]
    return build(TrainConfig, changed | {"resume": ""})


def _summary(path: Path) -> dict | None:
    try:
        summary = json.loads(path.read_bytes())
        summary["env_steps"] + 0  # raises unless it is a number
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:  # ValueError: not JSON, or not even text
        why = "damaged, not the summary of a run; delete it, and the run is finished anew"
        raise FolderError(f"{path}: {why}") from error
    return summary


def _wait(folder: Path) -> None:
    for second in range(PATIENCE_S):
        if (lock := locked(folder)) is not None:
            os.close(lock)
            return
        if second == 0:
            say(f"{folder} is in use; waiting a minute for it")
        time.sleep(1)
    raise FolderError(f"{folder}: another semagram-train is running there")
