"""The folders that Hydra makes for a run, and that are removed again where nothing was put into them."""

import errno
from contextlib import suppress
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

missing: list[Path] = []
"""The run folder and those above it, as far as there was none before the run; the innermost first."""


class NoteMissing(Callback):
    """Called by Hydra before it makes the run folder."""

    def on_run_start(self, config: DictConfig, **_) -> None:
        """Note which folders are not there yet."""
        missing.clear()
        with suppress(OmegaConfBaseException):  # Hydra is about to meet it
            folder = Path(config.hydra.run.dir).absolute()
            missing.extend(path for path in (folder, *folder.parents) if not path.exists())


def prune() -> None:
    """Remove the folders that were made, as far as they are empty. Raises OSError."""
    for path in missing:
        try:
            path.rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT):
                return
            raise
