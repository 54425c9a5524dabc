"""Train from a script or a notebook, with the keys of `semagram-train`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.errors import HydraException

from configs.arguments import check_eyes, explain, named
from configs.command import composed
from configs.runs.training import Training
from configs.schema import TrainConfig
from configs.strict import ConfigError, build


def train(arguments: Sequence[str], folder: str | Path | None = None) -> dict:
    """Train as `semagram-train` does with these `arguments`, each a `key=value`, and return the summary.

    `folder`: the new run's folder; None with `resume=<run>` among the arguments, which goes on in its own. The same
    errors as the command's are raised instead of printed: ConfigError for a wrong key or value, FolderError for a run
    that cannot be resumed. Ctrl-C saves a checkpoint and raises SystemExit.
    """
    try:
        keys, given = composed("train", list(arguments)), named(arguments)
    except HydraException as error:
        raise ConfigError(explain(error, "train", arguments)) from error
    if keys["resume"]:
        if folder is not None:
            raise ConfigError(f"folder={folder}: not with resume={keys['resume']}, which goes on in its own folder")
        return Training.begin(keys, Path(keys["resume"]), given).run()
    if folder is None:
        raise ConfigError("folder: where to put the run, e.g. runs/mine")
    config = build(TrainConfig, keys)
    check_eyes(config, given)
    return Training.begin(asdict(config), Path(folder), given).run()
