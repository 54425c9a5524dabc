"""Train, from a command or from a script or notebook."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from configs.arguments import explain, given, moved, named
from configs.command import composed
from configs.machine import check_threads
from configs.runs.tracking import check_installed
from configs.schema import TrainConfig, check_camera_keys
from worldmodel import registry
from worldmodel.strict import ConfigError, build

AUTO = "auto"
"""Value of `resume`: the run in the folder is begun, gone on with, or found finished (`configs.runs.run_folder`)."""


def train(
    arguments: Sequence[str],
    folder: str | Path | None = None,
    callback: Callable[[dict[str, float | None]], None] | None = None,
) -> dict:
    """Train as `semagram-train` does with these `arguments`, each a `key=value`, and return the summary.

    `folder`: the new run's folder; None with `resume=<run>` among the arguments, which goes on in its own. `callback`
    is called with each row of metrics.csv as it is written. The same errors as the command's are raised instead of
    printed: ConfigError for a wrong key or value, FolderError for a run that cannot be resumed. Ctrl-C saves a
    checkpoint and raises SystemExit.
    """
    from hydra.errors import HydraException

    try:
        keys = composed("train", list(arguments))
    except HydraException as error:
        raise ConfigError(explain(error, "train")) from error
    own = in_own_folder(keys["resume"])
    if own and folder is not None:
        raise ConfigError(f"folder={folder}: not with resume={keys['resume']}, which goes on in its own folder")
    if not own and folder is None:
        raise ConfigError("folder: where to put the run, e.g. runs/mine")
    registry.load(keys["plugins"])
    return begin(keys, Path(folder or keys["resume"]), named(arguments), callback)


def command(keys: dict, folder: Path) -> dict:
    """Do the work of semagram-train; arguments and errors as of `begin`."""
    if in_own_folder(keys["resume"]) and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={keys['resume']}, which goes on in its own folder")
    return begin(keys, folder, given())


def in_own_folder(resume: object) -> bool:
    """Return whether `resume` names a run, which goes on in its own folder."""
    return resume not in ("", AUTO)


def begin(
    keys: dict,
    folder: Path,
    given: Collection[str],
    callback: Callable[[dict[str, float | None]], None] | None = None,
) -> dict:
    """Train with the settings `keys` and write everything to `folder`, or to the run folder that `resume` names.

    `given`: the dotted keys that the user set. Mistakes are reported before the slow import of PyTorch. Returns the
    summary. Raises ValueError, OSError.
    """
    began = time.perf_counter()
    if isinstance(keys["threads"], int):  # else `build` says what is wrong
        check_threads(keys["threads"])
    if keys["resume"] == AUTO:
        from configs.runs.run_folder import found

        summary, keys, given = found(keys, folder)
        if summary is not None:
            return summary
    if not keys["resume"] or not isinstance(keys["resume"], str):  # a resumed run takes most from its checkpoint
        config = build(TrainConfig, keys)
        check_camera_keys(config, given)
        check_installed(config.track)
    from configs.runs.training import Training

    run = Training.begin(keys, folder, given, callback)
    run.clock["starting"] = time.perf_counter() - began
    return run.run()
