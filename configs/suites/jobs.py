"""One run of a benchmark: its command line, its progress and its result."""

import json
import os
import platform
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from configs.arguments import quoted
from configs.runs.assembly import Assembly
from configs.runs.resuming import RESUMABLE
from configs.runs.run_folder import RunFolder
from configs.schema import TrainConfig
from configs.store import composed
from configs.strict import ConfigError, build
from envs.benchmark.curves import LearningCurve, read_curve
from envs.benchmark.results import COLUMNS, Result, ResultsError
from envs.settings import TaskConfig
from envs.suite import NAMES
from policies.storage.code_version import commit

COPIED = tuple(name for name in COLUMNS if name not in ("task", "seed", "agent", "device", "commit"))
"""The fields that a result copies unchanged from summary.json."""


@dataclass(frozen=True)
class Job:
    """`agent`, to be trained on a task for `steps` environment steps in `folder`; `settings`: keys as `name=value`."""

    agent: str
    task: str
    seed: int
    steps: int
    folder: Path
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return f"{self.task} seed {self.seed}"

    def command(self) -> list[str]:
        """Return the command line that begins the run or, if it has left a checkpoint, resumes it."""
        if self.begun():
            # The fixed settings are in the checkpoint; the benchmark has checked that they are the same.
            free = [key for key in self.settings if re.split(r"[.=]", key)[0] in RESUMABLE]
            keys = [f"resume={quoted(self.folder)}", *free]
        else:
            keys = [*self._keys(), f"hydra.run.dir={quoted(self.folder)}"]
        return [sys.executable, "-P", "-m", "configs.suites.worker", str(os.getpid()), f"steps={self.steps}", *keys]

    def check(self) -> None:
        """Build and close the parts that the worker would build, uncompiled. Raises ValueError as the worker would."""
        config = build(TrainConfig, composed("train", [f"steps={self.steps}", *self._keys()]))
        Assembly.begin(replace(config, compile="false")).close()

    def task_config(self) -> TaskConfig:
        """Return the task, given by its name or its Gymnasium id. Raises ValueError if it is neither."""
        if self.task not in NAMES and (":" in self.task or re.search(r"-v\d+$", self.task)):
            return TaskConfig("gym", self.task)
        return TaskConfig(self.task)

    def _keys(self) -> list[str]:
        task = self.task_config()
        which = [f"task={task.name}", *[f"task.id={quoted(task.id)}"] * bool(task.id)]
        return [*which, f"seed={self.seed}", *self.settings]

    def begun(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return RunFolder(self.folder).used

    def curve(self) -> LearningCurve | None:
        """Return the learning curve so far, or None before the first row."""
        try:
            return read_curve(self.folder / "metrics.csv")
        except ResultsError:
            return None

    def result(self) -> Result | None:
        """Return the run's result, or None if it is not finished. Raises ConfigError for a damaged summary."""
        path = self.folder / "summary.json"
        try:
            summary = json.loads(path.read_bytes())
            if summary["env_steps"] < self.steps:
                return None
            return build(
                Result,
                {
                    "task": self.task,
                    "seed": self.seed,
                    "agent": self.agent,
                    "device": device(summary["device"]),
                    "commit": summary.get("commit") or commit(),  # a peer's has none: our launcher ran it
                    **{name: summary[name] for name in COPIED},
                },
            )
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:  # ValueError: not JSON, not text, or a non-finite number
            said = f"damaged, not the summary of a run ({error})"
            raise ConfigError(f"{path}: {said}; delete it, and the run is finished anew") from error


def device(name: str) -> str:
    """Return the name of the device; for `cpu`, the processor's model name if known."""
    if name != "cpu":
        return name
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
