"""What a person sees of a run: a line a second, or the rerun viewer; `configs.arm.live` shows it as a page."""

import contextlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from policies.tokens.vocabulary import Move, text
from policies.tools import Asker
from robot.drivers import PlanFollower
from robot.loop import Step
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError, in_one_line
from worldmodel.settings import TokenConfig

REDRAW_S, LINE_S = 0.2, 1.0
"""How often a page is drawn anew, and how often a line is printed."""
WAITING = 8  # ticks that may queue for logging; if the viewer hangs, further ones are dropped
COMES_UP_S = 15.0  # to wait for the viewer's window
PATIENCE_S = 2.0  # to wait for what is left at the end


class NoView:
    """A view that prints lines and shows no ticks. `asker`: whose questions it may show."""

    asker: Asker | None = None

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Ignore the step."""

    def say(self, text: str) -> None:
        """Print a line to stderr; a closed terminal raises nothing, as there may still be an arm to stop."""
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: nothing is left to show."""


class TerminalView(NoView):
    """Prints a line every LINE_S about a loop's steps. `token`: how the plans' tokens are to be read."""

    def __init__(self, token: TokenConfig, hz: float, episodes: int):
        self._token, self._hz, self._episodes = token, hz, episodes
        self._count, self._tip = 0, Fingertip()

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Print a line about the step if the last one is long enough ago."""
        self._count += 1
        if self._count % round(LINE_S * self._hz):
            return
        plans = follower.plans
        plan = f"{plans.plan_ms[-1]:.1f} ms" if plans.plan_ms else "none yet"
        left = {kind: (name, share) for kind, (name, share) in step.margins.least().items() if math.isfinite(share)}
        margins = ", ".join(f"{kind} {100 * share:.0f} % ({name})" for kind, (name, share) in left.items())
        self.say(
            f"episode {step.episode}/{self._episodes} {step.at_s:4.1f} s | {step.rate_hz:.1f} Hz, tick late "
            f"{1000 * step.late_s:.1f} ms, read to sent {1000 * step.work_s:.1f} ms | plan {plan}, {plans.late} late"
            f"{', waiting for one' if follower.waiting else ''}: {plan_text(follower, self._token, self._hz)} | "
            f"tip at [{', '.join(f'{x:.3f}' for x in self._tip.place(step.reading.values)[0])}] m, "
            f"{100 * step.margins.box_m:.1f} cm inside its box | least margins: {margins}"
        )


def plan_text(follower: PlanFollower, token: TokenConfig, hz: float) -> str:
    """Return the plan being followed, in the vocabulary's notation."""
    answer = follower.answer
    if answer is None:
        return "waiting for the first plan"
    return text(Move.of(each, token.control_points, token.degree, answer.length / hz) for each in answer.tokens)


class RerunView(NoView):
    """Logs every tick to a viewer that it opens, or to `file`, for `rerun <file>`, in a thread outside the loop.

    Entities: `joints/measured`, `joints/sent` (in the robot's own units), `margins`, `tick` and `plan` in milliseconds,
    `camera/<name>` as the model gets it, `token` as text when it changes, `log`. Timelines: `tick`, and `time` in
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
        self._tick, self._plan, self._named, self._began = 0, "", False, time.monotonic()
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
        self._stream.log("log", rerun.TextLog("semagram-run"))
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="rerun", daemon=True)
        self._thread.start()

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Queue a step for logging, without waiting for the viewer."""
        margins, plans, number, now = step.margins, follower.plans, self._tick, time.monotonic() - self._began
        self._tick += 1
        joints = margins.limits.names
        lines = {
            "joints/measured": dict(zip(joints, step.reading.values.tolist(), strict=True)),
            "joints/sent": dict(zip(joints, margins.at.tolist(), strict=True)),
            "margins": {kind: left for kind, (_, left) in margins.least().items()},
            "tick": {"late ms": 1000 * step.late_s, "read to sent ms": 1000 * step.work_s},
            "plan": {"ms": plans.plan_ms[-1] if plans.plan_ms else math.nan},
        }
        frames, plan = follower.cameras.newest, plan_text(follower, self._token, self._hz)
        self._later(lambda: self._log(number, now, lines, frames, plan))

    def say(self, text: str) -> None:
        """Print a line, and log it."""
        super().say(text)
        self._later(lambda: self._stream.log("log", self._rerun.TextLog(text)))

    def close(self) -> None:
        """Write what is left, unless the viewer hangs or is gone."""
        lost = "the viewer did not take the last of it"
        with contextlib.suppress(queue.Full):  # the viewer hangs
            self._waiting.put(None, timeout=PATIENCE_S)
            self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            with contextlib.suppress(queue.Empty):  # drop what waits, so that the thread ends as soon as it can
                while True:
                    self._waiting.get_nowait()
            self._waiting.put_nowait(None)
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

    def _work(self) -> None:
        while (log := self._waiting.get()) is not None:
            if self._broken:
                continue
            try:
                log()
            except Exception as error:  # no failure of a viewer may stop an arm
                self._broken = True
                super().say(f"the viewer shows no more: {in_one_line(error)}")

    def _log(self, number: int, now: float, lines: dict, frames: dict[str, np.ndarray], plan: str) -> None:
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
        if plan != self._plan:
            self._plan = plan
            stream.log("token", rerun.TextLog(plan))
