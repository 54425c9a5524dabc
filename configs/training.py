"""A training run from its first step to its summary: evaluations, checkpoints, progress, pictures."""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from configs.assembly import Assembly, prepare
from configs.films import film
from configs.run_folder import RunFolder
from configs.schema import TrainConfig
from configs.strict import build
from envs.benchmark.anchors import published
from envs.benchmark.curves import read_curve
from envs.benchmark.figures import learning_curve
from policies.checkpoint import load_trainer, newest, save_checkpoint, versions
from policies.rollouts import Rollout, rollout
from worldmodel.arithmetic import plan_gflop, update_gflop

RESUMABLE = ("steps", "threads", "video", "compile", "resume", "evaluation", "checkpoint", "device")


class Stopped(Exception):
    """The run was told to stop by a signal."""


@dataclass
class Training:
    """One run. `seconds` is the time spent training, evaluations left out, over all its sittings."""

    config: TrainConfig
    parts: Assembly
    folder: RunFolder
    seconds: float = 0.0

    @classmethod
    def begin(cls, keys: dict, path: Path) -> "Training":
        """A new run in the folder `path`, or the continuation of `resume`. Raises ConfigError, FolderError."""
        if keys["resume"]:
            return cls._resume(keys)
        config = build(TrainConfig, keys)
        parts = Assembly(config, prepare(config))
        parts.env  # noqa: B018  a task that cannot be made is refused before anything is written
        run = cls(config, parts, RunFolder(path))
        run.folder.begin(keys)
        return run

    @classmethod
    def _resume(cls, keys: dict) -> "Training":
        folder = RunFolder(Path(keys["resume"]))
        saved = folder.config()
        config = build(TrainConfig, saved | {k: keys[k] for k in RESUMABLE})
        run = cls(config, Assembly(config, prepare(config)), folder)
        path = newest(folder.checkpoints)
        progress = load_trainer(path, run.parts.trainer, run._say)
        folder.rewind(int(progress["metrics_bytes"]))
        run.seconds = float(progress["seconds"])
        run._say(f"going on from {path}")
        return run

    def run(self) -> dict:
        """Train to the end; returns the summary. A SIGTERM or an interrupt saves a checkpoint first."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, _stop)
        trainer, config = self.parts.trainer, self.config
        bar = tqdm(
            total=config.steps,
            initial=trainer.env_steps,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        try:
            with bar:
                self._loop(bar)
        except Stopped as stopped:
            self._save()
            self._say(f"stopped by {stopped}; go on with: semagram-train resume={self.folder.path}")
            raise SystemExit(130) from None
        result = self._finish()
        self.parts.close()
        return result

    def _loop(self, bar: tqdm) -> None:
        trainer, config = self.parts.trainer, self.config
        marks = (config.evaluation.every, config.checkpoint.every)
        before, started = trainer.env_steps, time.perf_counter()
        for ended in trainer.run(config.steps):
            if ended is not None:
                self.folder.log(
                    self._position()
                    | {"episode_return": ended.episode_return, "episode_length": ended.episode_length}
                    | ended.metrics
                )
                bar.set_postfix_str(f"return {ended.episode_return:.0f}", refresh=False)
            now = trainer.env_steps
            if now == before:
                continue
            bar.update(now - before)
            evaluate, save = (bool(m) and now // m > before // m for m in marks)
            before = now
            if evaluate or save:
                self.seconds += time.perf_counter() - started
                if evaluate and now < config.steps:
                    self._evaluate(f"{now} steps")
                if save and now < config.steps:
                    self._save()
                started = time.perf_counter()
        self.seconds += time.perf_counter() - started

    def _position(self) -> dict[str, int]:
        trainer = self.parts.trainer
        return {
            "env_steps": trainer.env_steps,
            "decisions": trainer.steps // self.parts.curve.config.length,
            "updates": self.parts.learner.updates,
        }

    def _evaluate(self, when: str) -> tuple[Rollout, Rollout, float]:
        """Evaluate with the planner and without it; also returns the planner's decisions per second."""
        env, seed = self.parts.evaluation_env, self.config.evaluation.seed
        started = time.perf_counter()
        planned = rollout(env, self.parts.evaluator(True, seed), seed, self.parts.limit)
        rate = planned.lengths.sum() / (time.perf_counter() - started)
        alone = rollout(env, self.parts.evaluator(False, seed), seed, self.parts.limit)
        self.folder.log(
            self._position()
            | {
                "eval_return": float(planned.returns.mean()),
                "eval_std": float(planned.returns.std()),
                "eval_policy_return": float(alone.returns.mean()),
            }
        )
        self._say(
            f"{when}: return {planned.returns.mean():.0f} ± {planned.returns.std():.0f}, "
            f"policy alone {alone.returns.mean():.0f}"
        )
        return planned, alone, rate

    def _save(self) -> None:
        progress = {"metrics_bytes": self.folder.metrics_size(), "seconds": self.seconds}
        save_checkpoint(
            self.folder.checkpoints,
            self.parts.identity(),
            self.parts.trainer,
            progress,
            self.config.checkpoint.keep,
        )

    def _finish(self) -> dict:
        config, learner, trainer = self.config, self.parts.learner, self.parts.trainer
        planned, alone, rate = self._evaluate("at the end")
        self._save()
        update = update_gflop(learner) * config.learning.updates_per_decision
        result = {
            "task": config.task.label,
            "seed": config.seed,
            "env_steps": trainer.env_steps,
            "return_mean": round(float(planned.returns.mean()), 3),
            "return_std": round(float(planned.returns.std()), 3),
            "episodes": len(planned.returns),
            "policy_return_mean": round(float(alone.returns.mean()), 3),
            "returns": [round(float(r), 3) for r in planned.returns],
            "train_seconds": round(self.seconds, 1),
            "env_steps_per_second": round(trainer.env_steps / max(self.seconds, 1e-9), 2),
            "gflop_per_decision": round(
                update + plan_gflop(learner.model, self.parts.token_discount, config.planner), 3
            ),
            "decisions_per_second": round(float(rate), 1),
            "parameters": int(learner.flat.numel()),
            "device": str(self.parts.machine.device),
            "versions": versions(),
            "run": str(self.folder.path),
        }
        self.folder.summary(result)
        name = config.task.label
        learning_curve(self.folder.path / "curve.png", read_curve(self.folder.metrics), published(name), name)
        if config.video:
            film(self.folder.path / "rollout.mp4", config.task, self.parts.evaluator(True, 0), self._say)
        self._say(f"done: {self.folder.path}")
        return result

    @staticmethod
    def _say(text: str) -> None:
        tqdm.write(text, file=sys.stderr)


def _stop(number, frame) -> None:
    raise Stopped(signal.Signals(number).name)
