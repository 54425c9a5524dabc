"""Resuming a run: from its newest checkpoint, with the config saved there."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import OmegaConf

from configs.arguments import GROUPS
from configs.command import plain
from configs.runs.run_folder import RunFolder
from configs.schema import RESUMABLE, TrainConfig
from configs.strict import ConfigError, build
from policies.storage.checkpoint import PROGRESS, check_resumable, newest
from policies.storage.folders import FolderError
from worldmodel import strict


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


@dataclass(frozen=True)
class Resumption:
    """A run to resume from the checkpoint `path` with the config `keys`; `progress` was saved with the checkpoint."""

    folder: RunFolder
    path: Path
    keys: dict
    progress: Progress

    @classmethod
    def find(cls, folder: RunFolder, keys: dict, given: Collection[str]) -> "Resumption":
        """Find what to resume in a run folder whose lock we hold.

        Of the keys that the user set (`given`, with their values in `keys`), only RESUMABLE ones may differ from the
        run's. Raises ConfigError if another differs. Raises FolderError if the folder is damaged or of another format,
        if its config.yaml does not match the checkpoint, or if the checkpoint lacks a setting, whose value in that run
        may have differed from today's default.
        """
        written, path = folder.config(), newest(folder.checkpoints)
        try:
            progress = strict.build(Progress, check_resumable(path), whole=True)
            saved = _whole(progress.config)
            if lacking := [*_lacking(saved, progress.config)]:
                raise ConfigError(f"{', '.join(lacking)}: missing; train again, or use the commit that made it")
        except ConfigError as error:
            raise FolderError(f"{path / PROGRESS}: {error}") from error
        fixed = {name: value for name, value in written.items() if name not in RESUMABLE}
        if other := [*_differences(saved, _whole(written), fixed)]:
            raise FolderError(f"{folder.path / 'config.yaml'}: not what {path} was made with ({'; '.join(other)})")
        return cls(folder, path, _changed(saved, keys, given), progress)


def _whole(keys: dict) -> dict:
    """Return a config completed with defaults for missing keys. Raises ConfigError."""
    return asdict(build(TrainConfig, keys))


def _lacking(whole: dict, keys: dict, at: str = "") -> Iterator[str]:
    """Yield the dotted settings of `whole` that `keys` lacks, except those that are None (for other kinds of task)."""
    for name, value in whole.items():
        if isinstance(value, dict) and isinstance(keys.get(name), dict):
            yield from _lacking(value, keys[name], f"{at}{name}.")
        elif value is not None and name not in keys:
            yield f"{at}{name}"


def _differences(one: dict, other: dict, names: dict, at: str = "") -> Iterator[str]:
    """Yield a description of each value that differs between two configs, among the nested keys of `names`."""
    for name, below in names.items():
        if isinstance(one[name], dict) and isinstance(below, dict):
            yield from _differences(one[name], other[name], below, f"{at}{name}.")
        elif one[name] != other[name]:
            yield f"{at}{name}={one[name]}, not {other[name]}"


def _changed(saved: dict, keys: dict, given: Collection[str]) -> dict:
    """Return the `saved` config, updated with the RESUMABLE keys in `given`.

    Raises ConfigError for any other given key whose value differs, or for a RESUMABLE group given by name.
    """
    old, new = OmegaConf.create(saved), OmegaConf.create(keys)
    for name in sorted(set(given) - {"resume"}):
        place = GROUPS.get(name, name)
        was, wanted = OmegaConf.select(old, place), OmegaConf.select(new, place)
        if name.partition(".")[0] in RESUMABLE:
            if OmegaConf.is_config(was):
                raise ConfigError(
                    f"{name}: a group; on resuming, its keys are given one by one, {name}.{next(iter(was))}="
                )
            OmegaConf.update(old, name, wanted)
        elif _unlike(was, wanted):
            raise ConfigError(f"{name}: fixed when this run began; on resuming, {', '.join(RESUMABLE)} can change")
    return plain(old, resolve=False)


def _unlike(was, wanted) -> bool:
    """Return whether a value differs; for a group, whether any of the wanted values differs."""
    if OmegaConf.is_dict(was) and OmegaConf.is_dict(wanted):
        return any(_unlike(was[key], wanted[key]) for key in wanted)
    return was != wanted
