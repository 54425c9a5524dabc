"""A view in the rerun viewer: curves of joints and margins, what each camera shows, the plan in words."""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robot.loop import Step
from robot.running.plan_follower import PlanFollower
from robot.running.sinks import Nothing, sentence
from robot.safety.faults import in_one_line
from worldmodel.errors import UserError
from worldmodel.settings import TokenConfig

WAITING = 8  # ticks that may queue for logging; if the viewer hangs, further ones are dropped
COMES_UP_S = 15.0  # to wait for the viewer's window
PATIENCE_S = 2.0  # to wait for what is left at the end


class Rerun(Nothing):
    """Logs every tick to a viewer that it opens, or to `file`, for `rerun <file>`, in a thread outside the loop.

    Entities: `joints/measured`, `joints/sent` (in the robot's own units), `margins`, `tick` and `plan` in milliseconds,
    `camera/<name>` as the model sees it, `token` as text when it changes, `said`. Timelines: `tick`, and `time` in
    seconds.
    """

    def __init__(self, token: TokenConfig, hz: float, file: str = ""):
        """Open the viewer, or the file.

        Raises ValueError if rerun is not installed or its viewer does not come up, OSError if the file exists.
        """
        try:
            import rerun
        except ImportError as error:
            raise UserError("viewer=rerun: not installed; uv pip install rerun-sdk, or viewer=terminal") from error
        self._rerun, self._token, self._hz = rerun, token, hz
        self._tick, self._told, self._named, self._began = 0, "", False, time.monotonic()
        self._broken = False  # logging failed and was given up
        self._stream = rerun.RecordingStream("semagram-run")
        if file:
            Path(file).open("xb").close()  # rerun itself does not report why it cannot write
            self._stream.save(file)
        else:
            self._open()
        # The first of each takes seconds; no arm should wait for that.
        rerun.Scalars([0.0])
        rerun.Image(np.zeros((1, 1, 3), np.uint8))
        rerun.SeriesLines(names=["a"])
        self._stream.log("said", rerun.TextLog("semagram-run"))
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="rerun", daemon=True)
        self._thread.start()

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Queue a step for logging, without waiting for the viewer."""
        margins, plans, number, now = step.margins, follower.plans, self._tick, time.monotonic() - self._began
        self._tick += 1
        least = {kind: left for kind, (_, left) in margins.least().items()}
        told = sentence(follower, self._token, self._hz)
        joints = margins.limits.names
        lines = {
            "joints/measured": dict(zip(joints, step.reading.values.tolist(), strict=True)),
            "joints/sent": dict(zip(joints, margins.at.tolist(), strict=True)),
            "margins": least,
            "tick": {"late ms": 1000 * step.late_s, "read to sent ms": 1000 * step.work_s},
            "plan": {"ms": plans.plan_ms[-1] if plans.plan_ms else math.nan},
        }
        frames = follower.cameras.newest
        self._later(lambda: self._log(number, now, lines, frames, told))

    def say(self, text: str) -> None:
        """Print a line, and log it."""
        super().say(text)
        self._later(lambda: self._stream.log("said", self._rerun.TextLog(text)))

    def close(self) -> None:
        """Write what is left, unless the viewer hangs or is gone."""
        lost = "the viewer did not take the last of it"
        with contextlib.suppress(queue.Full):  # the viewer hangs
            self._waiting.put(None, timeout=PATIENCE_S)
            self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._forget()
            return super().say(lost)
        try:
            self._stream.flush(timeout_sec=PATIENCE_S)
        except RuntimeError:
            super().say(lost)
        self._stream.disconnect()
        return None

    def _open(self) -> None:
        """Open the viewer. Raises ValueError if none comes up: data logged then would keep the program from exiting."""
        try:
            self._stream.spawn()
            self._stream.flush(timeout_sec=COMES_UP_S)
        except RuntimeError as error:
            why = "the viewer does not come up, as without a screen; viewer_file=run.rrd leaves a file for elsewhere"
            raise UserError(f"viewer=rerun: {why}") from error

    def _later(self, log: Callable[[], None]) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(log)

    def _forget(self) -> None:
        """Drop what waits, so that the thread ends as soon as the viewer lets it."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    def _work(self) -> None:
        while (log := self._waiting.get()) is not None:
            if self._broken:
                continue
            try:
                log()
            except Exception as error:  # no failure of a viewer may stop an arm
                self._broken = True
                super().say(f"the viewer shows no more: {in_one_line(error)}")

    def _log(self, number: int, now: float, lines: dict, frames: dict[str, np.ndarray], told: str) -> None:
        rerun, stream = self._rerun, self._stream
        if not self._named:
            self._named = True
            for entity, values in lines.items():
                stream.log(entity, rerun.SeriesLines(names=list(values)), static=True)
        stream.set_time("tick", sequence=number)
        stream.set_time("time", duration=now)
        for entity, values in lines.items():
            stream.log(entity, rerun.Scalars(list(values.values())))
        for name, frame in frames.items():
            stream.log(f"camera/{name}", rerun.Image(frame))
        if told != self._told:
            self._told = told
            stream.log("token", rerun.TextLog(told))
