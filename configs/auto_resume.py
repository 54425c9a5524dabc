"""`resume=auto`: the same command again in a fixed folder begins its run, goes on with it, or finds it finished."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from configs.reporting import say
from configs.schema import RESUMABLE, TrainConfig
from configs.strict import ConfigError, build
from policies.storage.folders import FolderError, locked

PATIENCE_S = 60
"""How long to wait for a folder whose last run is still saving a checkpoint."""


def found(keys: dict, folder: Path) -> tuple[dict | None, dict, set[str]]:
    """Return the summary of the finished run in `folder` or None, the keys to train with, and which of them hold.

    Raises ConfigError for other settings than the run there has, or more steps than are asked for, and FolderError for
    a damaged summary or a folder that stays in use.
    """
    keys = asdict(build(TrainConfig, keys | {"resume": ""}))
    if not (folder / "config.yaml").is_file():
        return None, keys, set()
    _wait(folder)
    from omegaconf import OmegaConf

    from configs.command import plain

    written = plain(OmegaConf.load(folder / "config.yaml"))
    begun = asdict(build(TrainConfig, written | {"resume": ""}))
    fixed = [name for name in leaves(keys) if name.partition(".")[0] not in (*RESUMABLE, "resume")]
    for name in fixed:
        if at(keys, name) != at(begun, name):
            raise ConfigError(
                f"{name}={at(keys, name)}: {folder} was begun with {at(begun, name)}; take another folder"
            )
    summary = _summary(folder / "summary.json")
    if summary is not None and summary["env_steps"] >= keys["steps"]:
        step = keys["task"]["action_repeat"] * keys["envs"]
        if summary["env_steps"] >= keys["steps"] + step:
            raise ConfigError(f"steps={keys['steps']}: {folder} has {summary['env_steps']} already")
        return summary, keys, set()
    if not any((folder / "checkpoints").glob("[0-9]*")):
        return None, keys, set()
    return None, keys | {"resume": str(folder)}, {name for name in leaves(keys) if name != "resume"}


def leaves(keys: dict, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all values that are not groups."""
    for name, value in keys.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def at(keys: dict, name: str):
    """Return the value of a dotted name."""
    for part in name.split("."):
        keys = keys[part]
    return keys


def _summary(path: Path) -> dict | None:
    try:
        summary = json.loads(path.read_bytes())
        summary["env_steps"] + 0  # raises unless it is a number
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:  # ValueError: not JSON, or not even text
        raise FolderError(
            f"{path}: damaged, not the summary of a run; delete it, and the run is finished anew"
        ) from error
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
