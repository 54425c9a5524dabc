"""Hydra's launcher `ray`: each member of a sweep is a task on a Ray cluster, or on one of this machine's own.

Hydra takes launchers from the namespace `hydra_plugins` only, and imports this file at each of its starts.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

if find_spec("ray"):
    keys = {"_target_": f"{__name__}.RayLauncher", "address": None}
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=keys)


RETRIES = 3


class RayLauncher(Launcher):
    """Runs members as tasks: `threads` cores each and, where the cluster has cards and `device` is not `cpu`, a card.

    `address`: of the cluster, whose machines share this one's folders; None: one of this machine. A member whose worker
    is lost runs again in the same folder, up to RETRIES times, and goes on there.
    """

    def __init__(self, address: str | None):
        self.address = address

    def setup(self, *, hydra_context, task_function, config) -> None:
        """Take what the members have in common."""
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run a member for each list of overrides, and print what it says. Raises UserError, ConnectionError."""
        import ray

        from configs.machine import cores
        from configs.reporting import Ended, say
        from worldmodel.errors import UserError

        handler, alone = signal.getsignal(signal.SIGTERM), {"num_cpus": cores(), "include_dashboard": False}
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
        with redirect_stdout(sys.stderr):  # of what Ray itself prints
            ray.init(self.address or "local", **quiet | ({} if self.address else alone))
        signal.signal(signal.SIGTERM, handler)
        there = ray.cluster_resources()
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        tasks, results = [], []
        for number, words in enumerate(job_overrides, initial_job_idx):
            resumes = "resume" not in self.config or any(word.startswith("resume=") for word in words)
            again = [*words] if resumes else [*words, "resume=auto"]
            job = self.context.config_loader.load_sweep_config(self.config, again)
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = number
                job.hydra.sweep.subdir = str(job.hydra.sweep.subdir)  # it may hold the time: the same for all tries
            threads, card = job.get("threads", 1), there.get("GPU", 0) > 0 and job.get("device", "cpu") != "cpu"
            if threads > most:
                raise UserError(f"threads={threads}: no machine of the Ray cluster has as many")
            task = ray.remote(_member).options(max_retries=RETRIES, num_cpus=threads, num_gpus=int(card))
            tasks.append(task.remote(self.context, self.function, job, Singleton.get_state(), os.getcwd()))
        for number, task in enumerate(tasks, initial_job_idx):
            try:
                result, out, said = ray.get(task)
            except ray.exceptions.RayError as lost:
                result, out, said = JobReturn(status=JobStatus.FAILED), "", f"member {number}: {lost}".splitlines()[0]
                result.return_value = Ended(said)
            results.append(result)
            say(said.strip())
            print(out, end="", flush=True)
        return results


def _member(context, function, job, state, folder: str) -> tuple[JobReturn, str, str]:
    """Run a member, on whichever machine. Returns what it returned, and what it wrote on stdout and stderr."""
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as said:
        result = run_job(function, job, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context=context)
    return result, out.getvalue(), said.getvalue()
