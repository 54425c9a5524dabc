"""The run folder: config.yaml, metrics.csv, summary.json, checkpoints/."""

import csv
import io
import json
import os
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from policies.storage.checkpoint import saved_in
from policies.storage.folders import FolderError, locked, replace_file
from worldmodel.learner import UPDATE_METRICS

COLUMNS = (
    "env_steps",
    "decisions",
    "updates",
    "episode_return",
    "episode_length",
    "episode_success",
    "episode_driven",
    "eval_return",
    "eval_std",
    "eval_policy_return",
    "eval_success",
    "eval_policy_success",
    *UPDATE_METRICS,
    "plan_std",
)


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
        text = io.StringIO()
        cells = [_number(row.get(name)) for name in COLUMNS]
        csv.writer(text, lineterminator="\n").writerow(cells)
        with open(self.metrics, "a") as file:
            file.write(text.getvalue())

    def summary(self, result: dict) -> None:
        """Write summary.json."""
        replace_file(self.path / "summary.json", (json.dumps(result, indent=1) + "\n").encode())


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"
