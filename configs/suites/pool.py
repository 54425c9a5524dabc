"""A pool of worker processes, one per run: retried if they die, stopped together."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from configs.reporting import MISTAKE
from configs.suites.jobs import Job
from configs.suites.progress import Screen
from envs.vector import THREADS
from robot.safety.signals import Stopped, handled

TRIES = 3
POLL = 0.5  # seconds


@dataclass
class Worker:
    """A process that trains one job. `steps_before`: the job's steps when this process started, once known."""

    job: Job
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)
    steps_before: float | None = None

    @classmethod
    def start(cls, job: Job, threads: int, keep: Sequence[int]) -> "Worker":
        """Start or resume a job, with its output appended to log.txt in its folder. `keep`: descriptors to inherit."""
        job.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONUNBUFFERED": "1"}
        with open(job.folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=keep,
                process_group=0,  # Ctrl-C reaches only us; we pass it on once
            )
        return cls(job, process)

    def last_words(self) -> str:
        """Return the last non-empty line of its log."""
        lines = (self.job.folder / "log.txt").read_bytes()[-2000:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Pool:
    """Runs jobs in worker processes, at most `count` at a time."""

    def __init__(self, count: int, screen: Screen, threads: int = 1, keep: Sequence[int] = ()):
        """`keep`: file descriptors that the workers inherit, and so hold open."""
        self.count, self.screen, self.threads, self.keep = count, screen, threads, keep
        self.workers: list[Worker] = []
        self.signal = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Start the jobs in order; yield each as it ends, with '' or the reason it failed.

        A worker that dies is started again, up to TRIES times in all, unless it ended with code MISTAKE. On a stop
        signal, raise Stopped once all workers have ended.
        """
        waiting, tries = list(jobs), dict.fromkeys(jobs, 0)
        with handled(self._ask):
            try:
                while waiting or self.workers:
                    while waiting and len(self.workers) < self.count and not self.signal:
                        job = waiting.pop(0)
                        tries[job] += 1
                        self.workers.append(Worker.start(job, self.threads, self.keep))
                    self.screen.show(self.workers, len(waiting))
                    time.sleep(POLL)
                    if self.signal:
                        self._stop()
                    for worker in [w for w in self.workers if w.process.poll() is not None]:
                        self.workers.remove(worker)
                        job, code = worker.job, worker.process.returncode
                        if code == 0:
                            yield job, ""
                            continue
                        why = f"{_ended(code)}: {worker.last_words()}" if code > 0 else _ended(code)
                        if code == MISTAKE or tries[job] >= TRIES:  # a retry does not fix a mistake
                            yield job, why
                        else:
                            self.screen.say(f"{job.name}: {why}; trying again")
                            waiting.insert(0, job)
            finally:
                self._stop_workers()

    def _ask(self, number, frame) -> None:
        if self.signal and number != signal.SIGHUP:  # a second signal: no time for a checkpoint
            for worker in self.workers:
                worker.process.kill()
        self.signal = number

    def _stop(self) -> None:
        self.screen.say(f"{signal.Signals(self.signal).name}: {len(self.workers)} workers save a checkpoint and end")
        self._stop_workers()
        raise Stopped(self.signal)

    def _stop_workers(self) -> None:
        """Terminate the remaining workers and wait until each has ended."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.wait()
        self.workers = []


def _ended(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
