"""A training run on recordings alone: a step is an update, an evaluation a look at the episodes held out."""

from dataclasses import asdict
from functools import cached_property

from configs.reporting import say
from configs.runs.held_out import HeldOut
from configs.runs.run_folder import RECORDED, write_summary
from configs.runs.training import Training
from policies.storage.folders import versions
from policies.training.offline import OfflineTrainer


class OfflineTraining(Training):
    """One such run; what is not said here is as in simulation."""

    @cached_property
    def held_out(self) -> HeldOut:
        """The episodes held out; all of them, if none is."""
        assert self.parts.recordings is not None
        model = self.parts.trainer.learner.model
        return HeldOut.of(self.parts.recordings, model, self.config.task.arm.control_hz)

    def _look(self, when: str) -> dict[str, float | None]:
        """Measure and log what the averaged weights make of the episodes held out."""
        trainer = self.parts.trainer
        assert isinstance(trainer, OfflineTrainer)
        with self._timed("evaluating"):
            found = self.held_out.figures(trainer.learner.acting)
        self._log(**trainer.means(), **found)
        self.evaluated = trainer.env_steps
        error, auc = (found[name] for name in RECORDED)
        foretold = "" if auc is None else f", value foretells success {auc:.2f}"
        say(f"{when}: held-out action error {error:.4f}{foretold}")
        return found

    def _evaluate(self, when: str) -> None:  # type: ignore[override]
        self._look(when)

    def _finish(self) -> dict:
        from worldmodel.flops import update_gflop

        config, trainer, path = self.config, self.parts.trainer, self.folder.path
        self._save()  # before the last look, as in simulation
        self._look("at the end")
        result = {
            "task": config.task.label,
            "data": list(config.data),
            "seed": config.seed,
            "env_steps": trainer.env_steps,
            "updates": trainer.learner.updates,
            **self.parts.recorded(),
            "clock": {what: round(seconds, 1) for what, seconds in self.clock.items()},
            "train_seconds": round(self.seconds, 1),
            "update_gflop": round(update_gflop(trainer.learner), 4),
            "parameters": int(trainer.learner.flat.numel()),
            "token": asdict(config.model.token),
            "device": str(self.parts.machine.device),
            "versions": versions(),
            "commit": self.commit,
            "run": str(path),
        }
        write_summary(path, result)
        self.held_out.draw(path / "held_out.png", trainer.learner.acting, self.folder.column(RECORDED[0]))
        say(f"done: {path} ({', '.join(f'{what} {seconds:.0f} s' for what, seconds in self.clock.items())})")
        return result
