"""A benchmark from its first run to its table; finished runs are not repeated."""

import json
import os
import time
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path

from configs.arguments import quoted
from configs.reporting import SIGNALLED
from configs.runs.resuming import RESUMABLE
from configs.schema import SHARED, BenchConfig, TrainConfig
from configs.strict import ConfigError
from configs.suites import peers, report
from configs.suites.jobs import Job
from configs.suites.pool import Pool
from configs.suites.progress import Screen
from envs.benchmark.results import Result, append, latest, read
from envs.benchmark.suites import SUITES, Suite
from policies.storage.files import locked, replace_file
from policies.storage.format import FORMAT, UNNUMBERED, check_format
from robot.safety.signals import Stopped

FREE = tuple(name for name in SHARED if name in RESUMABLE)
FIXED = tuple(name for name in SHARED if name not in RESUMABLE)
RESULTS, SETTINGS = "results.csv", "settings.json"
UNFINISHED = "it left no result"
PATIENCE = 60  # seconds to wait for the workers of a killed benchmark


@dataclass(frozen=True)
class Benchmark:
    """A suite's runs in a folder.

    `lock`: a file descriptor that holds the folder's lock while it, or a worker's copy of it, is open.
    """

    config: BenchConfig
    suite: Suite
    folder: Path
    screen: Screen
    lock: int

    @classmethod
    def begin(cls, config: BenchConfig, folder: Path) -> "Benchmark":
        """Lock the folder, which may be new or hold a benchmark already begun, and check all settings.

        Raises ConfigError if it is in use or was begun with other settings, FolderError if its runs' checkpoints are of
        another format, ValueError for settings that a run would refuse.
        """
        suite = SUITES[config.suite]
        suite = Suite(tuple(config.tasks) or suite.tasks, config.seeds or suite.seeds, config.steps or suite.steps)
        keys = tuple(settings(config))
        for task in suite.tasks:  # raise before anything is written
            Job(config.agent, task, 1, suite.steps, folder, keys).check()
        if config.peer.name != "none":
            peers.check(config.peer)
        screen = Screen()
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(folder, screen)
        try:
            _same_settings(folder, config, suite.steps)
        except BaseException:
            os.close(lock)
            raise
        return cls(config, suite, folder, screen, lock)

    def run(self) -> dict:
        """Run all unfinished jobs. Returns the summary; `failed` maps the folder names of failed runs to the reasons.

        On a stop signal, raise SystemExit with 128 + its number once all workers have ended.
        """
        jobs, failed, todo = self.jobs(), {}, []
        for job in jobs:
            why = self._missing(job)
            if why == UNFINISHED:
                todo.append(job)
            elif why:
                failed[job.folder.name] = why
                self.screen.say(f"{job.name}: {why}")
        if done := len(jobs) - len(todo) - len(failed):
            self.screen.say(f"{done} of {len(jobs)} runs are done already")
        workers = self.config.workers if isinstance(self.config.workers, int) else os.cpu_count() or 1
        pool = Pool(workers, self.screen, self.config.threads, (self.lock,))
        try:
            for job, fault in pool.run(todo):
                if why := fault or self._missing(job):
                    failed[job.folder.name] = why
                self.screen.say(f"{job.name}: {why or self._said(job)}")
                self._report(jobs)
        except Stopped as stopped:
            self.screen.say("stopped; the same command goes on from here")
            raise SystemExit(SIGNALLED + stopped.number) from None
        results = self._report(jobs)
        if results:
            self.screen.say(report.terminal(results))
        result = {"suite": self.config.suite, **report.summary(results, self.config.agent)}
        return result | {"failed": failed, "out": str(self.folder)}

    def jobs(self) -> list[Job]:
        """Return all runs: each seed for every task before the next seed, and the peer's runs last."""
        ours, theirs, keys = [], [], tuple(settings(self.config))
        for seed in range(1, self.suite.seeds + 1):
            for task in self.suite.tasks:
                place = f"{task.replace('/', '_')}-seed{seed}"
                run = (task, seed, self.suite.steps)
                ours.append(Job(self.config.agent, *run, self.folder / place, keys))
                if self.config.peer.name != "none":
                    theirs.append(peers.job(self.config.peer, *run, self.folder / f"{self.config.peer.name}-{place}"))
        return ours + theirs

    def _results(self) -> list[Result]:
        path = self.folder / RESULTS
        return latest(read(path)) if path.exists() else []

    def _mine(self, job: Job, result: Result) -> bool:
        step = job.task_config().repeat * self.config.envs
        near = job.steps <= result.env_steps < job.steps + step
        return (result.task, result.seed, result.agent) == (job.task, job.seed, job.agent) and near

    def _missing(self, job: Job) -> str:
        """Return why a run's result is not in results.csv, or '' if it is; add it first if the run is finished."""
        if any(self._mine(job, result) for result in self._results()):
            return ""
        try:
            result = job.result()
        except ConfigError as damaged:
            return str(damaged)
        if result is None or not self._mine(job, result):
            return UNFINISHED
        # Several environments may overshoot by a few steps; published returns are looked up by the requested steps.
        append(self.folder / RESULTS, replace(result, env_steps=job.steps))
        return ""

    def _said(self, job: Job) -> str:
        (result,) = (r for r in self._results() if self._mine(job, r))
        return f"return {result.return_mean:.0f} ± {result.return_std:.0f} after {result.train_seconds / 60:.1f} min"

    def _report(self, jobs: list[Job]) -> list[Result]:
        """Write the table and curves of the runs so far. Returns the results with the number of steps now asked for."""
        results = [result for result in self._results() if result.env_steps == self.suite.steps]
        curves: dict = {}
        for job in jobs:
            if job.agent == self.config.agent and (curve := job.curve()) is not None and curve.end:
                curves.setdefault(job.task, []).append(curve)
        if results:
            report.write(self.folder, results, curves)
        return results


def settings(config: BenchConfig) -> list[str]:
    """Return the runs' settings as `name=value`: those that differ from semagram-train's defaults, and all in FREE."""
    default, found = _plain(TrainConfig()), []

    def walk(value, usual, name: str) -> None:
        if isinstance(value, dict):
            for key in value:
                walk(value[key], usual[key], f"{name}.{key}")
        elif value != usual or name.partition(".")[0] in FREE:
            found.append(f"{name}={quoted(value) if isinstance(value, str) else json.dumps(value)}")

    for name in FIXED + FREE:
        walk(_plain(getattr(config, name)), default[name], name)
    return found


def _plain(value):
    """Convert a setting to plain data, as it would read back from JSON."""
    return json.loads(json.dumps(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value))


def _take(folder: Path, screen: Screen) -> int:
    """Lock the folder and return the lock's file descriptor, which the workers inherit.

    Waits up to PATIENCE seconds for a lock that the workers of a killed benchmark still hold; then raises ConfigError.
    """
    for second in range(PATIENCE):
        if (lock := locked(folder)) is not None:
            return lock
        if second == 0:
            screen.say(f"{folder} is in use; waiting a minute for it (a killed bench's workers save and end)")
        time.sleep(1)
    raise ConfigError(f"out={folder}: another semagram-bench is running there")


def _same_settings(folder: Path, config: BenchConfig, steps: int) -> None:
    """Compare the settings with those the folder was begun with, if any, and record them.

    Raises ConfigError if a fixed setting differs or `steps` is smaller; FolderError as `_begun_with` does.
    """
    now, path = _fixed(config), folder / SETTINGS
    if path.exists():
        before = _begun_with(path)
        for name in FIXED:
            if before.get(name) != now[name]:
                raise ConfigError(f"out={folder}: begun with other settings of {name}; take another agent= or out=")
        if before["steps"] > steps:
            raise ConfigError(f"steps={steps}: {folder} was begun with {before['steps']}; take another out=")
    replace_file(path, (json.dumps({"format": FORMAT, **now, "steps": steps}, indent=1) + "\n").encode())


def _fixed(config: BenchConfig) -> dict:
    """Return the settings that are fixed once a benchmark has begun in a folder, as plain data."""
    return {name: _plain(getattr(config, name)) for name in FIXED}


def _begun_with(path: Path) -> dict:
    """Read a settings file. Raises ConfigError, naming it, if it is damaged, FolderError if of another format."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:  # not JSON, or not even text
        raise ConfigError(f"{path}: damaged, not JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("steps"), int):
        raise ConfigError(f"{path}: damaged, not the settings of a benchmark (it names no steps)")
    check_format(path, found.get("format", UNNUMBERED))
    return found
