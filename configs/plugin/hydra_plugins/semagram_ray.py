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
from typing import Any, TextIO

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

if find_spec("ray"):
    keys = {"_target_": f"{__name__}.RayLauncher", "address": None, "max_retries": 3}
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=keys)


class RayLauncher(Launcher):
    """Runs members as tasks: `threads` cores each and, with `device=cuda` or where `auto` finds some, a card.

    `address`: of the cluster, whose machines share this one's folders; None: one of this machine. A member whose worker
    is lost runs again in the same folder, up to `max_retries` times, and goes on there.
    """

    def __init__(self, address: str | None, max_retries: int):
        self.address, self.max_retries = address, max_retries

    def setup(self, *, hydra_context, task_function, config) -> None:
        """Take what the members have in common."""
        self.shared = hydra_context, config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run a member for each list of overrides, and print what it says. Raises UserError, ConnectionError."""
        answers = sys.stdout
        with redirect_stdout(sys.stderr):  # of what Ray itself prints
            return self._launched(job_overrides, initial_job_idx, answers)

    def _launched(self, job_overrides: Sequence[Sequence[str]], first: int, answers: TextIO) -> list[JobReturn]:
        import ray

        from configs.arguments import quoted
        from configs.reporting import Ended, say

        self._connect()
        tasks = {}
        for number, words in enumerate(job_overrides, first):
            job = _composed(*self.shared[:2], words, number)
            subdir = quoted(job.hydra.sweep.subdir)  # before the first try, since it may hold the time
            again = [f"hydra.sweep.subdir={subdir}", *["resume=auto"] * (job.get("resume") == "")]
            task = ray.remote(_member).options(max_retries=self.max_retries, **_needed(job))
            state = [*words, *again], number, Singleton.get_state(), os.getcwd()
            tasks[task.remote(*self.shared, *state)] = number
        results: dict[int, JobReturn] = {}
        while waiting := [task for task in tasks if tasks[task] not in results]:
            (task,), _ = ray.wait(waiting)
            try:
                result, out, said = ray.get(task)
            except ray.exceptions.RayError as lost:
                result, out = JobReturn(status=JobStatus.FAILED), ""
                result.return_value = Ended(f"member {tasks[task]}: {str(lost).splitlines()[0]}")
                said = str(result._return_value)
            results[tasks[task]] = result
            say(said.strip())
            print(out, end="", file=answers, flush=True)
        return [results[number] for number in sorted(results)]

    def _connect(self) -> None:
        import ray

        from configs.machine import cores

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        handler = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            quiet |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": 100 << 20}
        ray.init(self.address or "local", **quiet)
        signal.signal(signal.SIGTERM, handler)


def _needed(job) -> dict[str, float]:
    """Return the resources of a member. Raises UserError if no machine of the cluster has them."""
    import ray

    from worldmodel.errors import UserError

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    card = str(job.get("device")).startswith("cuda") or any(
        node.get("GPU") for node in there if job.get("device") == "auto"
    )
    threads = job.get("threads", 1)
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= card for node in there):
        raise UserError(f"threads={threads} device={job.get('device')}: no machine of the Ray cluster has as much")
    return {"num_cpus": threads, "num_gpus": int(card)}


def _composed(context, config, words: Sequence[str], number: int):
    """Return the config of a member."""
    job = context.config_loader.load_sweep_config(config, list(words))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    return job


def _member(context, config, function, words: Sequence[str], number: int, state, folder: str) -> tuple:
    """Run a member, on whichever machine. Returns what it returned, and what it wrote on stdout and stderr."""
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as said:
        result = run_job(
            hydra_context=context,
            config=_composed(context, config, words, number),
            task_function=function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    return result, out.getvalue(), said.getvalue()
