"""Hydra's sweeper `semagram`: its own basic one, which first checks every run, and in the end reports their returns.

Hydra takes sweepers from the namespace `hydra_plugins` only, and imports this file at each of its starts.
"""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus

keys = {"_target_": f"{__name__}.SemagramSweeper", "max_batch_size": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="semagram", node=keys)


class SemagramSweeper(BasicSweeper):
    """Runs every combination, once all are checked; says the mean return of each setting, even if a run failed."""

    def split_arguments(self, overrides, max_batch_size):  # type: ignore[override]
        """Return the batches of runs. Raises HydraException, UserError for one with impossible keys, before any run."""
        from configs.sweep import check_keys

        assert self.config is not None and self.hydra_context is not None
        batches = super().split_arguments(overrides, max_batch_size)
        for words in [words for batch in batches for words in batch]:
            check_keys(self.hydra_context.config_loader.load_sweep_config(self.config, words))
        return batches

    def validate_batch_is_legal(self, batch) -> None:
        """Do nothing: `split_arguments` has checked them."""

    def sweep(self, arguments: list[str]):
        """Run them; see Hydra's."""
        from configs.reporting import say
        from configs.sweep import averages

        assert self.launcher is not None
        launch, done = self.launcher.launch, list[JobReturn]()

        def noted(*given, **named):
            done.extend(results := launch(*given, **named))
            return results

        self.launcher.launch = noted  # type: ignore[method-assign]
        try:
            return super().sweep(arguments)
        finally:
            ended = [(job.overrides or (), job.return_value) for job in done if job.status is JobStatus.COMPLETED]
            for line in averages([(words, mean) for words, mean in ended if mean is not None]):
                say(line)
