"""A run's folder (config.yaml, metrics.csv, summary.json, checkpoints/), and going on with the run in it."""

import copy
import csv
import json
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from configs.arguments import GROUPS
from configs.reporting import say
from configs.schema import RESUMABLE, TrainConfig
from policies.storage.checkpoint import PROGRESS, check_resumable, newest, saved_in
from policies.storage.folders import FolderError, locked, replace_file
from worldmodel.learner import UPDATE_METRICS
from worldmodel.strict import ConfigError, build

COLUMNS = (
    *("env_steps", "decisions", "updates", "episode_return", "episode_length", "episode_success", "episode_driven"),
    *("eval_return", "eval_std", "eval_policy_return", "eval_success", "eval_policy_success", *UPDATE_METRICS),
    "plan_std",
)
PATIENCE_S = 60
"""How long to wait for a folder whose last run is still saving a checkpoint."""


class RunFolder:
    """Paths and writers of one run folder.

    Nothing in metrics.csv depends on wall-clock time, so identical runs write identical files.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.csv"

    @property
    def used(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return bool(saved_in(self.checkpoints))

    def take(self) -> int:
        """Lock the folder, creating it if needed. Returns a file descriptor that holds the lock while open.

        Raises FolderError if another process holds the lock.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (lock := locked(self.path)) is None:
            raise FolderError(f"{self.path}: another semagram-train is running there")
        return lock

    def begin(self, config: dict) -> None:
        """Write the config and an empty metrics file, replacing those of an earlier run that saved no checkpoint."""
        (self.path / "summary.json").unlink(missing_ok=True)
        replace_file(self.path / "config.yaml", OmegaConf.to_yaml(config).encode())
        replace_file(self.metrics, (",".join(COLUMNS) + "\n").encode())

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
        """Truncate metrics.csv to its `size` in bytes at a checkpoint. Raises FolderError if it is shorter."""
        if not self.metrics.is_file() or self.metrics.stat().st_size < size:
            raise FolderError(f"{self.metrics}: shorter than at the checkpoint, which had {size} bytes")
        os.truncate(self.metrics, size)

    def log(self, row: dict[str, float | None]) -> None:
        """Append a row to metrics.csv; missing, None and NaN values stay empty. Raises ValueError for unknown keys."""
        if extra := set(row) - set(COLUMNS):
            raise ValueError(f"no such columns: {', '.join(sorted(extra))}")
        with open(self.metrics, "a+") as file:
            file.seek(0)  # its first line says which columns: a run begun before a metric was added goes on without it
            cells = [_number(row.get(name)) for name in file.readline().strip().split(",")]
            csv.writer(file, lineterminator="\n").writerow(cells)

    def summary(self, result: dict) -> None:
        """Write summary.json."""
        replace_file(self.path / "summary.json", (json.dumps(result, indent=1) + "\n").encode())


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"


@dataclass(frozen=True)
class Progress:
    """What a run saves with each checkpoint.

    `config`: its config. `metrics_bytes`: the size of metrics.csv. `seconds`: time spent training. `evaluated`:
    environment steps at the last evaluation.
    """

    config: dict
    metrics_bytes: int
    seconds: float
    evaluated: int


def leaves(keys: dict, place: str = "") -> dict[str, object]:
    """Return the values of a config that are not groups, by their dotted names."""
    found: dict[str, object] = {}
    for name, value in keys.items():
        found |= leaves(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}": value}
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
    now, begun = leaves(keys), leaves(whole(RunFolder(folder).config()))
    for name, value in now.items():
        if fixed(name) and value != begun[name]:
            raise ConfigError(f"{name}={value}: {folder} was begun with {begun[name]}; take another folder")
    summary = _summary(folder / "summary.json")
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
    Raises ConfigError if another differs. Raises FolderError if the folder is damaged or of another format, if its
    config.yaml does not match the checkpoint, or if the checkpoint lacks a setting, whose value in that run may have
    differed from today's default.
    """
    written, path = folder.config(), newest(folder.checkpoints)
    try:
        progress = build(Progress, check_resumable(path), whole=True)
        saved, there = leaves(whole(progress.config)), leaves(progress.config)
        # None is for other kinds of task.
        if lacking := [name for name, value in saved.items() if name not in there and value is not None]:
            raise ConfigError(f"{', '.join(lacking)}: missing; train again, or use the commit that made it")
    except ConfigError as error:
        raise FolderError(f"{path / PROGRESS}: {error}") from error
    begun = leaves(whole(written))
    differing = [name for name in leaves(written) if fixed(name) and begun[name] != saved[name]]
    if other := "; ".join(f"{name}={saved[name]}, not {begun[name]}" for name in differing):
        raise FolderError(f"{folder.path / 'config.yaml'}: not what {path} was made with ({other})")
    return path, _changed(progress.config, keys, given), progress


def _changed(saved: dict, keys: dict, given: Collection[str]) -> TrainConfig:
    """Return the `saved` config with the RESUMABLE keys in `given` as in `keys`.

    Raises ConfigError for any other given key whose value differs, or for a RESUMABLE group given by name.
    """
    was, wanted, changed = leaves(saved), leaves(keys), copy.deepcopy(saved)
    for name in sorted({*given} - {"resume"}):
        place = GROUPS.get(name, name)
        if below := [key for key in wanted if key.startswith(f"{place}.")]:
            if not fixed(name):
                raise ConfigError(f"{name}: a group; on resuming, its keys are given one by one, {below[0]}=")
            if any(_plain(wanted[key]) != _plain(was[key]) for key in below):
                raise _kept(name)
        elif fixed(name):
            if place not in was or _plain(wanted[place]) != _plain(was[place]):
                raise _kept(name)
        else:
            group, _, leaf = name.rpartition(".")
            (changed[group] if group else changed)[leaf] = wanted[name]
    return build(TrainConfig, changed | {"resume": ""})


def _plain(value: object) -> object:
    return [*value] if isinstance(value, tuple) else value


def _kept(name: str) -> ConfigError:
    return ConfigError(f"{name}: fixed when this run began; on resuming, {', '.join(RESUMABLE)} can change")


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
