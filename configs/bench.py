"""A benchmark: a sweep of semagram-train over the tasks and seeds of a suite, and its report."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from configs.arguments import brought_by, given, named, quoted
from configs.command import register
from configs.machine import cores
from configs.reporting import say
from configs.schema import BenchConfig, TrainConfig, check_camera_keys
from configs.sweep import last_line, own_configs, started
from configs.train import composed_or_refused
from envs.benchmark import results, table
from envs.settings import folder_name
from policies.storage.folders import replace_file
from worldmodel.strict import ConfigError, build

OWN = {field.name for field in fields(BenchConfig)} - {field.name for field in fields(TrainConfig)} | {"steps", "video"}
"""The keys that are not passed on to the runs as they are."""
FOLDER = "hydra.sweep.subdir='${semagram.label:${task.name},${task.id},${task.names}}-seed${seed}'"


def bench(config: BenchConfig, folder: Path) -> dict:
    """Run a suite, or only make a table, as `config` says. Returns the result. Raises ValueError, OSError."""
    if config.table:
        return tabulate(config)
    if config.suite == "stuck":
        from configs.runs.stuck import stuck

        return stuck(config, folder)
    check_camera_keys(config, given())
    chosen = HydraConfig.get().overrides
    for name, instead in (("task", "tasks"), ("seed", "seeds"), ("resume", "out")):
        if wrong := [word for word in chosen.task if named([word]) == {name}]:
            raise ConfigError(f"{wrong[0]}: {instead}= says so for all runs")
    words = [word for word in chosen.task if not named([word]) & OWN]
    words += [f"steps={config.steps}", f"video={str(config.video).lower()}"]
    runs = _checked(config, words, folder)
    _sweep(
        config,
        [*words, *own_configs(), *(word for word in chosen.hydra if re.match("hydra[/.]launcher", word))],
        folder,
    )
    return _report(config, runs, folder)


def _checked(config: BenchConfig, words: list[str], folder: Path) -> dict[Path, str]:
    """Return each run's folder with its task. Raises ValueError for impossible settings, before anything is written."""
    from configs.runs.parts import build as build_parts
    from configs.runs.run_folder import found

    register(config.tasks)
    runs = {}
    for task in config.tasks:
        checked = build(TrainConfig, composed_or_refused("train", [*words, f"task={task}"]))
        build_parts(replace(checked, compile="false")).close()
        for seed in config.each_seed:
            path = folder / f"{folder_name(checked.task.label)}-seed{seed}"
            found(asdict(replace(checked, seed=seed)), path)
            runs[path] = checked.task.label
    return runs


def _sweep(config: BenchConfig, words: list[str], folder: Path) -> None:
    """Run semagram-train for every task and seed, each seed for all tasks before the next. Ends with us (Linux)."""
    workers = _workers(config)
    if not any(word.startswith("hydra/launcher=") for word in words) and workers > 1:
        words = [*words, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    seeds = ",".join(map(str, config.each_seed))
    sweep = [f"seed={seeds}", f"task={','.join(config.tasks)}", "resume=auto"]
    words = ["-m", *words, *sweep, f"hydra.sweep.dir={quoted(folder)}", FOLDER]
    say(f"semagram-train {' '.join(words)}")
    process = started("train", words, stdout=subprocess.DEVNULL)
    try:
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
            say("stopped; the same command goes on from here")


def _workers(config: BenchConfig) -> int:
    there = find_spec("hydra_plugins.hydra_joblib_launcher") if find_spec("hydra_plugins") else None
    if isinstance(config.workers, int):
        if config.workers > 1 and not there:
            raise ConfigError(f"workers={config.workers}: {brought_by('sweep')}")
        return config.workers
    return cores() if there else 1


def _report(config: BenchConfig, runs: dict[Path, str], folder: Path) -> dict:
    """Write the table, the curves and the rows of the runs that are finished. Returns the summary."""
    rows: list[results.Result] = []
    failed: dict[str, str] = {}
    for path in runs:
        try:
            result = results.run_of(path, folder.name)
        except results.ResultsError as damaged:
            failed[path.name] = str(damaged)
            continue
        if result is None or result.env_steps < config.steps:
            failed[path.name] = last_line(path / "log.txt")
            continue
        rows.append(result)
    for name, why in failed.items():
        say(f"{name}: {why}")
    if rows:
        results.write(folder / "results.csv", rows)
        replace_file(folder / "table.md", (table.document(rows) + "\n").encode())
        _draw(folder, {path: task for path, task in runs.items() if path.name not in failed})
        _draw_costs(folder / "costs.png", table.rows(rows, folder.name))
        say(table.document(rows))
    return {"suite": config.suite, **table.summary(rows, folder.name), "failed": failed, "out": str(folder)}


def _draw(folder: Path, runs: dict[Path, str]) -> None:
    """Draw the learning curves of runs, by their tasks, in the folder's curves.png."""
    from envs.benchmark.figures import save, small_multiples

    curves: dict[str, list[results.LearningCurve]] = {}
    for path, task in [each for each in runs.items() if (each[0] / "metrics.csv").exists()]:
        curves.setdefault(task, []).append(results.read_curve(path / "metrics.csv"))
    if curves:
        save(folder / "curves.png", small_multiples(curves))


def _draw_costs(path: Path, rows: Sequence[table.Row]) -> None:
    """Draw the mean return by arithmetic beside published ones, where there are any of all these tasks."""
    from envs.benchmark.figures import return_by_cost, save

    if (figure := return_by_cost(rows)) is not None:
        save(path, figure)


def _check_alike(runs: list[Path]) -> None:
    """Raise ConfigError if runs differ in another setting than task and seed; FolderError for a damaged config."""
    from configs.runs.run_folder import RunFolder, fixed, leaves, whole

    first: dict[str, object] = {}
    for run in runs:
        try:
            settings = whole(RunFolder(run).config())
        except ConfigError as error:
            raise ConfigError(f"{run / 'config.yaml'}: {error}") from error
        now = {name: value for name, value in leaves(settings).items() if fixed(name)}
        first = first or now
        for name in sorted({*now, *first}):
            if name.partition(".")[0] not in ("task", "seed") and now.get(name) != first.get(name):
                other = f"{first.get(name)} in {runs[0]}; a column is of one setting"
                raise ConfigError(f"{run / 'config.yaml'}: {name}={now.get(name)}, but {other}")


def tabulate(config: BenchConfig) -> dict:
    """Make the table of runs, in `readme` or on stderr; return the summary of `agent`. Raises UserError.

    In a folder of runs it leaves their learning curves; there, or beside a CSV file, the return by arithmetic.
    """
    paths = [config.table] if isinstance(config.table, str) else config.table
    found = [(path, results.read(path)) for path in paths]
    folders = [(Path(path), runs) for path, runs in found if Path(path).is_dir()]
    for _, runs in folders:
        _check_alike([run for run, _ in runs])
    rows = table.chosen(found)
    for folder, runs in folders:
        _draw(folder, {run: result.task for run, result in runs})
    names, agent = table.agents(rows), config.agent
    if agent not in names:
        if agent != BenchConfig.agent:
            raise ConfigError(f"agent={agent}: not in {', '.join(paths)}, which have {', '.join(names)}")
        agent = names[0]
    place = Path(paths[0])
    _draw_costs(place / "costs.png" if place.is_dir() else place.with_suffix(".png"), table.rows(rows, agent))
    text = table.document(rows)
    if config.readme:
        changed = table.update_readme(Path(config.readme), text)
        print(f"{config.readme}: {'written' if changed else 'was up to date'}", file=sys.stderr)
    else:
        print(text, file=sys.stderr)
    return {"table": paths, **table.summary(rows, agent)}
