"""Progress of a benchmark's workers: a line each, redrawn in a terminal, printed once a minute elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from envs.benchmark.table import steps
from robot.terminal import Terminal

EVERY = 60.0  # seconds between reports without a terminal


class Screen:
    """Shows the workers' progress on `stream` (default: stderr). `every`: seconds between reports off a terminal."""

    def __init__(self, stream: TextIO | None = None, every: float = EVERY):
        self._terminal = Terminal(stream or sys.stderr)
        self.every, self.shown_at = 1.0 if self._terminal.live else every, time.monotonic()

    def show(self, workers: Sequence, waiting: int) -> None:
        """Draw the workers' lines, unless the last ones are too recent."""
        now = time.monotonic()
        if now - self.shown_at < self.every:
            return
        self.shown_at = now
        more = [f"{waiting} more waiting"] * bool(waiting)
        self._terminal.draw([describe(worker, now) for worker in workers] + more)

    def say(self, text: str) -> None:
        """Print a line that is not overwritten."""
        self._terminal.say(text)


def describe(worker, now: float) -> str:
    """Return one line about a worker: task, seed, steps, rate, time left, newest return."""
    job, curve = worker.job, worker.job.curve()
    done = curve.end if curve else 0.0
    worker.steps_before = min(done, done if worker.steps_before is None else worker.steps_before)
    text = f"{job.name:<30} {steps(done):>6} of {steps(job.steps)}"
    rate = (done - worker.steps_before) / (now - worker.started)
    if rate > 0:
        text += f"  {rate:4.0f}/s"
        if done < job.steps:
            text += f"  {duration((job.steps - done) / rate)} left"
    if curve is not None and len(curve.train_return):
        text += f"  return {curve.train_return[-1]:.0f}"
    return text


def duration(seconds: float) -> str:
    """Format a duration for people: 40 s, 12 min, 3.5 h."""
    for unit, name, form in ((3600, "h", ".1f"), (60, "min", ".0f")):
        if seconds >= unit:
            return f"{seconds / unit:{form}} {name}"
    return f"{seconds:.0f} s"
