"""A training run from its first step to its summary: evaluations, checkpoints, progress, plot and video."""

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from configs.arguments import going_on, typed
from configs.reporting import SIGNALLED, Ended, progress_bar, say
from configs.runs import parts as building
from configs.runs.episodes import EvaluationEpisodes, side_by_side
from configs.runs.loading import compiler_faults
from configs.runs.report import Report
from configs.runs.run_folder import GUIDED, Progress, RunFolder, leaves, point_last, resumption, write_summary
from configs.runs.tracking import Callback, Trackers
from configs.schema import DROP, TrainConfig
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost, hanging, watched
from policies.agent import Agent
from policies.decisions.trace import TRACE, traced
from policies.storage.checkpoint import restore, save_checkpoint
from policies.storage.folders import commit, versions
from policies.training.episodes import PATIENCE
from policies.training.rollouts import Rollout, columns, in_words, outcome
from robot.safety.stops import Stopped, handled
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError, build

STOPPING = b"\nstopping as soon as all is saved; the same signal again stops at once, without a checkpoint\n"
PAYS = 10_000  # updates and plans after which compiling them has paid (docs/results.md)


@dataclass
class Training:
    """One training run.

    `lock`: a file descriptor that holds the run folder's lock while open. `seconds`: spent training, without
    evaluations, over all resumptions. `evaluated`, `saved`: environment steps at the last evaluation, and at the last
    checkpoint of this process, or -1. `signal`: that asked the run to stop, or 0. `faults`: how often an environment
    was at fault. `enough`: whether the callback or an evaluation has ended it. `shown`: what the last evaluation
    returned.
    """

    config: TrainConfig
    parts: building.Parts
    folder: RunFolder
    lock: int
    seconds: float = 0.0
    evaluated: int = 0
    saved: int = -1
    signal: int = 0
    faults: int = 0
    fault: Exception | None = None
    commit: str = field(default_factory=commit)
    callback: Callback | None = None
    trackers: Trackers = field(init=False)
    enough: bool = False
    shown: tuple[Rollout, Rollout, Agent] | None = None
    clock: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, keys: dict, path: Path, given: Collection[str] = (), callback: Callback | None = None) -> "Training":
        """Begin a run in the folder `path`, or continue that of `keys["resume"]`. Raises ConfigError, FolderError."""
        run = cls._resume(keys, given) if keys["resume"] else cls._new(keys, path)
        run.callback = callback
        return run

    @classmethod
    def _new(cls, keys: dict, path: Path) -> "Training":
        config, folder = build(TrainConfig, keys), RunFolder(path)
        calls = (config.steps / config.task.repeat - config.seed_steps) * config.learning.updates_per_token
        if config.compile == "auto" and calls < PAYS * config.model.token.length:
            config = replace(config, compile="false")
        if folder.used:
            raise ConfigError(f"hydra.run.dir={path}: holds a run already; {typed('resume', path)} goes on with it")
        parts = building.build(config)  # raises for invalid settings before anything is written
        if config.init:
            building.begin_with(parts, config.init)
        run = cls(config, parts, folder, folder.take())
        if unseen := [f"images.{name}" for name in parts.env.metadata["unperceived"]]:
            senses = ",".join([*config.senses, *unseen])
            say(f"{', '.join(unseen)} {'are' if len(unseen) > 1 else 'is'} there and not perceived; senses=[{senses}]")
        run.folder.begin(asdict(config))
        point_last(path)
        return run

    @classmethod
    def _resume(cls, keys: dict, given: Collection[str]) -> "Training":
        folder = RunFolder(Path(keys["resume"]).absolute())
        began = folder.config()  # raises if it is not a run folder, before anything is written to it
        lock = folder.take()  # before looking for the newest checkpoint: the lock's holder may save another
        try:
            path, config, progress = resumption(folder, keys, given)
            parts = building.build(config)
            restore(path, parts.trainer, say)
            folder.rewind(progress.metrics_bytes)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, UserError) and began.get("plugins") and not keys["plugins"]:
                again = going_on(folder.path, began["plugins"])
                raise ConfigError(f"{error}; it began with plugins: {again}") from error
            raise
        say(f"going on from {path}")
        if parts.trainer.env_steps >= config.steps:
            say(f"steps={config.steps}: it has {parts.trainer.env_steps} already, and is only evaluated again")
        return cls(config, parts, folder, lock, progress.seconds, progress.evaluated, faults=progress.faults)

    @property
    def report(self) -> Report:
        """What evaluations and films report of named quantities."""
        return Report(self.config.task.guidance)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Add the time that the block takes to the clock."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.clock[what] = self.clock.get(what, 0.0) + time.perf_counter() - began

    @cached_property
    def episodes(self) -> EvaluationEpisodes:
        """The evaluation's episodes, in environments of their own."""
        config, together = self.config, side_by_side(self.config.planner.deadline_ms)
        settings: dict = {"variation": config.randomise, "senses": config.perceived}
        return EvaluationEpisodes(config.task, config.evaluation.episodes, together, **settings)

    def run(self) -> dict:
        """Train to the end. Returns the summary. On a stop signal, save a checkpoint and exit with 128 + its number.

        Raises Ended if an environment's process is lost, without a checkpoint (no state between two steps is there to
        save) or is at fault where it learns, with one; EnvironmentFault if in an evaluation or at the first reset.
        """
        go_on = f"go on with: {going_on(self.folder.path, self.config.plugins)}"
        self.parts.trainer.episodes.report = self._tell
        try:
            about = self.folder.path, leaves(asdict(self.config)), self.config.task.label
            trackers = Trackers(self.config.track, *about, self.parts.trainer.env_steps)
            with closing(trackers) as self.trackers, compiler_faults(go_on), handled(self._ask), watched(say, go_on):
                try:
                    self._loop()
                    result = self._finish()
                    clock = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in self.clock.items())
                    say(f"done: {self.folder.path} ({clock})")
                    return result
                except Stopped:
                    if self.saved != self.parts.trainer.env_steps:  # else it is on disk, without the last evaluation
                        self._save()
                    with suppress(OSError):  # the terminal may be closed
                        say(f"stopped by {signal.Signals(self.signal).name}; {go_on}")
                    raise SystemExit(SIGNALLED + self.signal) from None
        except EnvironmentLost as error:
            raise Ended(f"{error}; {go_on}" if self.folder.used else str(error)) from error
        except EnvironmentFault as error:
            if self.parts.trainer.steps and self.saved != self.parts.trainer.env_steps:
                self._save()
            if error is self.fault:
                dropping = self.config.on_fault == DROP
                how = f"{PATIENCE} episodes in a row had no step" if dropping else f"on_fault={DROP} goes on by itself"
                raise Ended(f"{error}; {how}; {go_on}") from error
            how = "going on comes to the same point: take another seed=, or go on with another evaluation.seed="
            how = f"so there is no film; all the rest is in {self.folder.path}" if "drawing" in self.clock else how
            raise EnvironmentFault(f"{error}; {how}", error.action, error.observation, error.reward) from error
        finally:
            try:
                self.parts.close()
                if "episodes" in self.__dict__:
                    self.episodes.close()
            finally:
                os.close(self.lock)

    def _tell(self, fault: Exception) -> None:
        """Count a fault of an environment that learns, and report it unless it ends the run."""
        self.faults, self.fault = self.faults + 1, fault
        if self.config.on_fault == DROP:
            say(f"{fault}; the episode ends there")

    def _ask(self, number, frame) -> None:
        """Ask for a stop after this step; the same signal again kills, but for SIGHUP, which comes more than once."""
        self.signal = number
        if hanging():
            return  # `watched` ends the run
        if number != signal.SIGHUP:
            with suppress(OSError):  # nobody may be reading; not `say`, which the signal may have interrupted
                os.write(2, STOPPING)
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)

    def _heed(self) -> None:
        """Raise Stopped if a signal has asked for it; called between steps."""
        if self.signal:
            raise Stopped(self.signal)

    def _loop(self) -> None:
        trainer, config = self.parts.trainer, self.config
        if self.parts.machine.compiled:
            say("compiling the plan and the update at the first of each: a minute or so, once per machine and sizes")
        updates = trainer.learner.updates
        trainer.stopping = lambda: bool(self.signal)
        trainer.learn()  # what a signal may have cut short
        self._heed()
        with progress_bar(config.steps, initial=trainer.env_steps) as bar:
            while trainer.env_steps < config.steps and not self.enough:
                now = trainer.env_steps
                if _due(config.evaluation.every, self.evaluated, now):
                    if config.evaluation.stop_at_return is not None:
                        self._save()  # before, as at the end: whoever goes on from here evaluates, and ends, too
                    self._evaluate(f"{now} steps")
                    if self.enough:
                        break
                compiling = self.parts.machine.compiled and trainer.learner.updates == updates
                started = time.perf_counter()
                for ended in trainer.step():
                    self._log(**ended)
                    who = " (an expert drove)" if ended["episode_driven"] else ""
                    bar.set_postfix_str(f"return {ended['episode_return']:.0f}{who}", refresh=False)
                took = time.perf_counter() - started
                self.seconds += took
                what = "compiling" if compiling and trainer.learner.updates > updates else "training"
                self.clock[what] = self.clock.get(what, 0.0) + took
                if self.fault and config.on_fault != DROP:
                    raise self.fault
                bar.update(trainer.env_steps - now)
                if _due(config.checkpoint.every, now, trainer.env_steps) and trainer.env_steps < config.steps:
                    self._save()
                self._heed()
        first = config.seed_steps * config.task.repeat
        if trainer.env_steps < first and config.envs:
            say(f"nothing was learned: the first {first} steps (seed_steps={config.seed_steps}) are random")

    def _log(self, **measured: float | None) -> None:
        """Record what was measured at this step: a row of metrics.csv."""
        trainer = self.parts.trainer
        decisions, updates = trainer.agent.totals.decisions, trainer.due  # if a signal cut them short, they follow
        row = {"env_steps": trainer.env_steps, "decisions": decisions, "updates": updates, **measured}
        self.folder.log(row)
        pace = trainer.env_steps / max(self.seconds, 1e-9)
        times = {"seconds": self.seconds, "env_steps_per_second": pace, "plan_ms": _mean(trainer.agent.plan_ms)}
        self.folder.log_times(row | times)
        if self.callback:
            said = self.callback(row | times)
            self.enough |= isinstance(said, bool | np.bool_) and bool(said)
        self.trackers.scalars(row | times, trainer.env_steps)

    def _evaluate(self, when: str) -> tuple[Rollout, Rollout, Agent]:
        """Evaluate with the planner and without it, and log both. Returns both rollouts and the agent that planned."""
        config, seed, now = self.config.evaluation, self.config.evaluation.seed, self.parts.trainer.env_steps
        timed = bool(self.config.planner.deadline_ms)  # then the return depends on speed: compile
        agent = self.parts.evaluator(True, seed, timed and self.parts.machine.compiled)
        folder = self.folder.path / TRACE / f"{now:09d}" if config.trace else None
        with self._timed("evaluating"), traced(agent, folder, {"task": self.config.task.label, "env_steps": now}):
            names, policy = self.report.names, self.parts.evaluator(False, seed)
            planned, alone = (self.episodes.play(each, seed, self._heed, names) for each in (agent, policy))
        fulfilled = self.report.fulfilled(planned, alone)
        self._log(**{name: fulfilled.get(name) for name in GUIDED}, **columns(planned, alone))
        self.evaluated, wanted = now, config.stop_at_return
        reached = wanted is not None and planned.returns.mean() >= wanted
        self.enough, self.shown = self.enough or reached, (planned, alone, agent)
        satisfied = f", guidance satisfied {fulfilled[GUIDED[0]]:.0%}" if fulfilled else ""
        ends = f"; evaluation.stop_at_return={wanted:g} is reached" if reached else ""
        say(f"{when}: {in_words(planned, alone)}{satisfied}{ends}")
        return self.shown

    def _save(self) -> None:
        trainer, folder = self.parts.trainer, self.folder
        progress = Progress(asdict(self.config), folder.metrics_size(), self.seconds, self.evaluated, self.faults)
        state, keep = trainer.state_dict(), self.config.checkpoint.keep
        with self._timed("saving"):
            save_checkpoint(folder.checkpoints, self.parts.spec(), state, asdict(progress), keep)
        self.saved = trainer.env_steps

    def _finish(self) -> dict:
        from configs.runs.film import leave
        from worldmodel.flops import plan_gflop, update_gflop

        config, trainer, path, learner = self.config, self.parts.trainer, self.folder.path, self.parts.trainer.learner
        if self.saved != trainer.env_steps:
            self._save()  # before the final evaluation, so that resuming from here duplicates no row
        shown = self.shown if self.evaluated == trainer.env_steps else None
        planned, alone, evaluated = shown or self._evaluate("at the end")
        # Both per control step, so that runs with different token lengths are comparable.
        update = update_gflop(learner) * config.learning.updates_per_token / config.model.token.length
        plan = plan_gflop(learner.model, learner.discount, config.planner) / trainer.agent.steps_per_decision
        result = self._summarise(
            update,
            faults=self.faults,
            **outcome(planned, alone),
            **self.report.fulfilled(planned, alone),
            env_steps_per_second=round(trainer.env_steps / max(self.seconds, 1e-9), 2),
            gflop_per_control_step=round(update + plan, 3),
            imagined_per_plan=round(evaluated.totals.model_calls_per_decision, 1),
            decisions_per_second=(mean := _mean(trainer.agent.plan_ms)) and round(1000 / mean, 1),
        )
        with self._timed("drawing"):
            leave(self.parts, self.folder, self.report, self._heed)
        pictures = [path / name for name in ("curve.png", "plan.png")]
        self.trackers.files(pictures, path / "rollout.mp4", trainer.env_steps)
        return result

    def _summarise(self, update_gflop: float, **found) -> dict:
        """Write the summary, which is returned: what was `found`, and what every run reports of itself."""
        config, trainer, path = self.config, self.parts.trainer, self.folder.path
        result = {
            "task": config.task.label,
            "seed": config.seed,
            "env_steps": trainer.env_steps,
            "updates": trainer.learner.updates,
            **found,
            **self.parts.recorded(),
            "clock": {what: round(seconds, 1) for what, seconds in self.clock.items()},
            "train_seconds": round(self.seconds, 1),
            "update_gflop": round(update_gflop, 4),
            "parameters": int(trainer.learner.flat.numel()),
            "device": str(self.parts.machine.device),
            "versions": versions(),
            "commit": self.commit,
            "run": str(path),
        }
        write_summary(path, result)
        return result


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _due(every: int, before: int, now: int) -> bool:
    """Return whether a multiple of `every` steps (0: never) was reached since `before`."""
    return bool(every) and now // every > before // every
