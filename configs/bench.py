"""semagram-bench: a sweep of semagram-train over the tasks and seeds of a suite, and its report."""

import os
import subprocess
import sys
from pathlib import Path

from configs.command import run

OWN = {"suite", "tasks", "seeds", "steps", "video", "workers", "agent", "out", "table", "readme"}
"""The keys that are not passed on to the runs as they are."""
FOLDER = "hydra.sweep.subdir='${semagram.label:${task.name},${task.id},${task.names}}-seed${seed}'"


def main() -> None:
    """Run the command; exit with code 1 if a run failed."""
    run("bench", bench, lambda result: 1 if result.get("failed") else 0)


def bench(keys: dict, folder: Path) -> dict:
    """Run a suite, or only make a table, as `keys` say. Returns the result. Raises ValueError, OSError."""
    from configs.arguments import check_eyes, given
    from configs.schema import BenchConfig
    from configs.strict import build

    config = build(BenchConfig, keys)
    if config.table:
        return tabulate(config)
    check_eyes(config, given())
    words, options = _words(config)
    runs = _checked(config, words, folder)
    _sweep(words, options, config, folder)
    return _report(config, runs, folder)


def _words(config) -> tuple[list[str], list[str]]:
    """Return the keys that all runs share, and options of Hydra's. Raises ConfigError for a key that a suite sets."""
    from hydra.core.hydra_config import HydraConfig

    from configs.arguments import named
    from configs.strict import ConfigError

    chosen = HydraConfig.get()
    for name, instead in (("task", "tasks"), ("seed", "seeds"), ("resume", "out")):
        if wrong := [word for word in chosen.overrides.task if named([word]) == {name}]:
            raise ConfigError(f"{wrong[0]}: {instead}= says so for all runs")
    words = [word for word in chosen.overrides.task if not named([word]) & OWN]
    words += [f"steps={config.steps}", f"video={str(config.video).lower()}"]
    places = [f"--config-dir={part.path}" for part in chosen.runtime.config_sources if part.provider == "command-line"]
    return words, [*places, *(word for word in chosen.overrides.hydra if word.startswith("hydra/launcher"))]


def _checked(config, words: list[str], folder: Path) -> dict[Path, str]:
    """Return each run's folder with its task, once the settings are known to be possible and those of what is there.

    Raises ValueError as semagram-train would, before anything is written.
    """
    from dataclasses import asdict, replace

    from configs.auto_resume import found
    from configs.command import composed, register
    from configs.runs.assembly import Assembly
    from configs.schema import TrainConfig
    from configs.strict import build

    register(config.tasks)
    runs = {}
    for task in config.tasks:
        checked = build(TrainConfig, composed("train", [*words, f"task={task}"]))
        Assembly.begin(replace(checked, compile="false")).close()
        for seed in range(1, config.seeds + 1):
            path = folder / f"{checked.task.label}-seed{seed}"
            found(asdict(replace(checked, seed=seed)), path)
            runs[path] = checked.task.label
    return runs


def _sweep(words: list[str], options: list[str], config, folder: Path) -> None:
    """Run semagram-train for every task and seed, each seed for all tasks before the next. Ends with us (Linux)."""
    from configs.arguments import quoted
    from configs.reporting import say

    workers = _workers(config)
    if not any(word.startswith("hydra/launcher=") for word in options) and workers > 1:
        options = [*options, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    seeds = ",".join(str(seed) for seed in range(1, config.seeds + 1))
    sweep = [f"seed={seeds}", f"task={','.join(config.tasks)}", "resume=auto"]
    words = [*words, *sweep, f"hydra.sweep.dir={quoted(folder)}", FOLDER, *options]
    say(f"semagram-train -m {' '.join(words)}")
    child = [sys.executable, "-P", "-m", "configs.sweep_member", str(os.getpid()), "train", "-m"]
    process = subprocess.Popen([*child, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)
    try:
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
            say("stopped; the same command goes on from here")


def _workers(config) -> int:
    from importlib.util import find_spec

    from configs.strict import ConfigError

    there = find_spec("hydra_plugins.hydra_joblib_launcher") if find_spec("hydra_plugins") else None
    if isinstance(config.workers, int):
        if config.workers > 1 and not there:
            raise ConfigError(f"workers={config.workers}: pip install 'semagram[sweep]' lets several run at a time")
        return config.workers
    return (os.cpu_count() or 1) if there else 1


def _report(config, runs: dict[Path, str], folder: Path) -> dict:
    """Write the table, the curves and the rows of the runs that are finished. Returns the summary."""
    from configs.reporting import say
    from configs.suites import report
    from configs.sweep_member import last_line
    from envs.benchmark.curves import LearningCurve, read_curve
    from envs.benchmark.results import Result, ResultsError, run_of

    results: list[Result] = []
    failed: dict[str, str] = {}
    curves: dict[str, list[LearningCurve]] = {}
    for path, task in runs.items():
        try:
            result = run_of(path, folder.name)
        except ResultsError as damaged:
            failed[path.name] = str(damaged)
            continue
        if result is None or result.env_steps < config.steps:
            failed[path.name] = last_line(path / "log.txt")
            continue
        results.append(result)
        curves.setdefault(task, []).append(read_curve(path / "metrics.csv"))
    for name, why in failed.items():
        say(f"{name}: {why}")
    if results:
        report.write(folder, results, curves)
        say(report.terminal(results))
    made = {"suite": config.suite, **report.summary(results, folder.name)}
    return made | {"failed": failed, "out": str(folder)}


def tabulate(config) -> dict:
    """Make the table of runs; write it into `readme` or, without one, to stderr. Returns the summary of `agent`.

    Raises ConfigError if there is no result of ours, the same run twice, one task at different numbers of steps (a mean
    would mix them), or no result of the chosen agent.
    """
    from configs.schema import BenchConfig
    from configs.strict import ConfigError
    from configs.suites import report
    from envs.benchmark.results import read

    paths = [config.table] if isinstance(config.table, str) else config.table
    parts = [read(path) for path in paths]
    results = [result for part in parts for result in part]
    names, agent, files = report.agents(results), config.agent, ", ".join(paths)
    if not names:
        raise ConfigError(f"table={files}: no results of ours")
    if wrong := report.in_several(parts) or report.mixed(results):
        raise ConfigError(f"table={files}: {wrong}")
    if agent not in names:
        if agent != BenchConfig.agent:
            raise ConfigError(f"agent={agent}: not in {files}, which have {', '.join(names)}")
        agent = names[0]
    if config.readme:
        changed = report.update_readme(Path(config.readme), results)
        print(f"{config.readme}: {'written' if changed else 'was up to date'}", file=sys.stderr)
    else:
        print(report.document(results), file=sys.stderr)
    return {"table": paths, **report.summary(results, agent)}


if __name__ == "__main__":
    main()
