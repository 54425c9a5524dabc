"""A training run on recordings alone: a step is an update, an evaluation a look at the episodes held out."""

from dataclasses import asdict
from functools import cached_property

from configs.reporting import say
from configs.runs.held_out import HeldOut
from configs.runs.run_folder import RECORDED
from configs.runs.training import Training
from policies.training.offline import OfflineTrainer


class OfflineTraining(Training):
    """One such run; what is not said here is as in simulation."""

    @cached_property
    def held_out(self) -> HeldOut:
        """The episodes held out; all of them, if none is."""
        assert self.parts.recordings is not None
        model = self.parts.trainer.learner.model
        return HeldOut.of(self.parts.recordings, model, self.config.task.arm.control_hz)

    def _evaluate(self, when: str) -> None:  # type: ignore[override]
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

    def _finish(self) -> dict:
        from worldmodel.flops import update_gflop

        learner = self.parts.trainer.learner
        self._save()  # before the last look, as in simulation
        self._evaluate("at the end")
        result = self._summarise(
            update_gflop(learner), data=list(self.config.data), token=asdict(self.config.model.token)
        )
        drawn = self.folder.path / "held_out.png"
        self.held_out.draw(drawn, learner.acting, self.folder.column(RECORDED[0]))
        return result
