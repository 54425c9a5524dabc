"""Hydra's sweeper `semagram`: its own basic one, which in the end reports what each setting came to.

Hydra takes sweepers from the namespace `hydra_plugins` only, and imports this file at each of its starts.
"""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus

keys = {"_target_": f"{__name__}.SemagramSweeper", "max_batch_size": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="semagram", node=keys)


class SemagramSweeper(BasicSweeper):
    """Runs every combination, and says the mean return of each setting over its runs, even if one failed."""

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
