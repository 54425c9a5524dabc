"""Where a run goes on from: its newest checkpoint, and the config that is saved in it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from configs.run_folder import RunFolder
from configs.strict import ConfigError
from policies.checkpoint import newest, read_identity, read_progress
from policies.folders import FolderError

RESUMABLE = ("steps", "threads", "video", "compile", "evaluation", "checkpoint", "device")


@dataclass(frozen=True)
class Resumption:
    """A run to go on with, from the checkpoint `path`, with the config `keys`; `progress`: what was saved beside it."""

    folder: RunFolder
    path: Path
    keys: dict
    progress: dict

    @classmethod
    def find(cls, keys: dict, given: Collection[str]) -> "Resumption":
        """Of the run folder `keys["resume"]`; of what the user set, `given`, only RESUMABLE keys can differ.

        Raises ConfigError for another key, FolderError for a folder that is damaged or whose config.yaml is not its
        checkpoint's.
        """
        folder = RunFolder(Path(keys["resume"]))
        written = folder.config()
        path = newest(folder.checkpoints)
        progress = read_progress(path)
        # Of a checkpoint of before it held the whole config: its task is known.
        saved = progress.get("config") or written | {"task": read_identity(path).task}
        fixed = {name: value for name, value in written.items() if name not in RESUMABLE}
        if other := [*_differences(saved, fixed)]:
            raise FolderError(f"{folder.path / 'config.yaml'}: not what {path} was made with ({'; '.join(other)})")
        return cls(folder, path, _changed(saved, keys, given), progress)


def _differences(saved: dict, written: dict, at: str = "") -> Iterator[str]:
    """What is written otherwise than it was saved."""
    for key, now in written.items():
        was, name = saved.get(key), f"{at}{key}"
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{name}.")
        elif was != now:
            yield f"{name}={was}, not {now}"


def _changed(saved: dict, keys: dict, given: Collection[str]) -> dict:
    """The config a run began with, with the RESUMABLE keys that are `given`. Raises ConfigError for another one."""
    old, new = OmegaConf.create(saved), OmegaConf.create(keys)
    for name in sorted(set(given) - {"resume"}):
        was, wanted = OmegaConf.select(old, name), OmegaConf.select(new, name)
        if name.partition(".")[0] in RESUMABLE:
            OmegaConf.update(old, name, wanted)
        elif was != wanted:
            raise ConfigError(f"{name}: fixed when this run began; on resuming, {', '.join(RESUMABLE)} can change")
    return OmegaConf.to_container(old)
