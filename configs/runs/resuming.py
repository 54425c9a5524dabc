"""Going on with a run: from its newest checkpoint, with the config saved there."""

import copy
import json
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.arguments import GROUPS
from configs.reporting import say
from configs.runs.run_folder import RunFolder
from configs.schema import RESUMABLE, TrainConfig
from policies.storage.checkpoint import PROGRESS, check_resumable, newest
from policies.storage.folders import FolderError, locked
from worldmodel.strict import ConfigError, build

PATIENCE_S = 60
"""How long to wait for a folder whose last run is still saving a checkpoint."""


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
