"""One run of a benchmark: its command line, how far it is, and its result."""

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
"""What a result has from the summary as it is."""


@dataclass(frozen=True)
class Job:
    """`agent` trains on a task for `steps` environment steps in `folder`; `settings`: keys, `name=value`."""

    agent: str
    task: str
    seed: int
    steps: int
    folder: Path
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.task} seed {self.seed}"

    def command(self) -> list[str]:
        """The command line that begins the run or, where it left a checkpoint, goes on from there."""
        if self.begun():
            # What is fixed when a run begins is in its checkpoint; the bench has seen to it that it is the same.
            free = [key for key in self.settings if re.split(r"[.=]", key)[0] in RESUMABLE]
            keys = [f"resume={quoted(self.folder)}", *free]
        else:
            keys = [*self._keys(), f"hydra.run.dir={quoted(self.folder)}"]
        return [sys.executable, "-P", "-m", "configs.suites.worker", str(os.getpid()), f"steps={self.steps}", *keys]

    def check(self) -> None:
        """Make and drop what its worker begins with; nothing is compiled. Raises ValueError where the worker would."""
        config = build(TrainConfig, composed("train", [f"steps={self.steps}", *self._keys()]))
        Assembly.begin(replace(config, compile="false")).close()

    def task_config(self) -> TaskConfig:
        """The task by its name in the suite, or by its Gymnasium id. Raises ValueError for neither."""
        if self.task not in NAMES and (":" in self.task or re.search(r"-v\d+$", self.task)):
            return TaskConfig("gym", self.task)
        return TaskConfig(self.task)

    def _keys(self) -> list[str]:
        task = self.task_config()
        which = [f"task={task.name}", *[f"task.id={quoted(task.id)}"] * bool(task.id)]
        return [*which, f"seed={self.seed}", *self.settings]

    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return RunFolder(self.folder).used

    def curve(self) -> LearningCurve | None:
        """What it has measured so far; None before its first line."""
        try:
            return read_curve(self.folder / "metrics.csv")
        except ResultsError:
            return None

    def result(self) -> Result | None:
        """The finished run's result; None if it is not finished. Raises ConfigError for a summary that is damaged."""
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
                    "commit": summary.get("commit") or commit(),  # a peer's says none: our launcher ran it
                    **{name: summary[name] for name in COPIED},
                },
            )
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:  # the last: not JSON, not text, or a number not finite
            said = f"damaged, not the summary of a run ({error})"
            raise ConfigError(f"{path}: {said}; delete it, and the run is finished anew") from error


def device(name: str) -> str:
    """What computed: the processor's own name for `cpu`."""
    if name != "cpu":
        return name
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
