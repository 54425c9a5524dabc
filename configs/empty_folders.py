"""Removal of the folders that Hydra creates for a run, if the run leaves them empty."""

import errno
from contextlib import suppress
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

missing: list[Path] = []
"""The run folder and those of its parents that did not exist before the run, innermost first."""


class NoteMissing(Callback):
    """Hydra callback that runs before the run folder is created."""

    def on_run_start(self, config: DictConfig, **_) -> None:
        """Record in `missing` which folders do not exist yet."""
        missing.clear()
        with suppress(OmegaConfBaseException):  # Hydra is about to raise it itself
            folder = Path(config.hydra.run.dir).absolute()
            missing.extend(path for path in (folder, *folder.parents) if not path.exists())


def prune() -> None:
    """Remove those of the `missing` folders that are empty, innermost first; raise any other OSError."""
    for path in missing:
        try:
            path.rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT):
                return
            raise
