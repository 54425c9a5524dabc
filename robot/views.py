"""What a person sees of a run: lines redrawn in place on a terminal (elsewhere one a second), or the rerun viewer."""

import contextlib
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from policies.tokens.vocabulary import Move, text
from policies.tools import Asker
from robot.drivers import PlanFollower
from robot.loop import Step
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError, in_one_line
from worldmodel.settings import TokenConfig

REDRAW_S, LINE_S = 0.2, 1.0
BAR = 20
WAITING = 8  # ticks that may queue for logging; if the viewer hangs, further ones are dropped
COMES_UP_S = 15.0  # to wait for the viewer's window
PATIENCE_S = 2.0  # to wait for what is left at the end


class Terminal:
    """Writes to `stream`; new lines replace those drawn last. Threads may share it.

    What is drawn is cut to the terminal's size: lines that wrapped or scrolled off the top could not be replaced the
    next time. If `stream` is not a terminal, everything stays. A closed terminal raises nothing: there may still be an
    arm to stop.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.live = stream, stream.isatty()
        self._drawn, self._lock = 0, threading.Lock()

    def draw(self, lines: Sequence[str]) -> None:
        """Write lines in place of those drawn last."""
        with self._lock:
            wide, high = self._size()
            lines = lines[:high]
            self._write("".join(f"{line[:wide]}\n" for line in lines))
            self._drawn = len(lines) if self.live else 0

    def say(self, text: str, keep: bool = False) -> None:
        """Write a line that stays, in place of what is drawn; with `keep`, below it, so that both stay."""
        with self._lock:
            if keep:
                self._drawn = 0
            self._write(f"{text}\n")

    def _size(self) -> tuple[int | None, int | None]:
        """Return the columns and lines available for drawing (the cursor stands below them); None where unknown."""
        size = os.terminal_size((0, 0))
        if self.live:
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(self.stream.fileno())
        return size.columns or None, max(1, size.lines - 1) if size.lines else None

    def _write(self, text: str) -> None:
        clear = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._drawn = 0
        with contextlib.suppress(OSError):
            self.stream.write(clear + text)
            self.stream.flush()


class NoView:
    """A view that prints lines and shows no ticks. `asker`: whose questions it may show."""

    asker: Asker | None = None

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Ignore the step."""

    def say(self, text: str) -> None:
        """Print a line to stderr."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: nothing is left to show."""


class TerminalView(NoView):
    """Shows a loop's steps on `stream` at a limited rate. `token`: how the plans' tokens are to be read."""

    def __init__(self, token: TokenConfig, hz: float, episodes: int, stream: TextIO = sys.stderr):
        self._token, self._hz, self._episodes = token, hz, episodes
        self._terminal = Terminal(stream)
        self._every = round((REDRAW_S if self._terminal.live else LINE_S) * hz)
        self._count, self._tip = 0, Fingertip()

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Show the step if the last redraw is long enough ago."""
        self._count += 1
        if self._count % self._every:
            return
        lines = self._lines(step, follower)
        self._terminal.draw(lines if self._terminal.live else [" | ".join(lines)])

    def say(self, text: str) -> None:
        """Print a line below what is drawn, which then stays."""
        self._terminal.say(text, keep=True)

    def _lines(self, step: Step, follower: PlanFollower) -> list[str]:
        plans, margins = follower.plans, step.margins
        least = margins.least()
        plan = f"{plans.plan_ms[-1]:.1f} ms" if plans.plan_ms else "none yet"
        state = ", waiting for one" if follower.waiting else ""
        lines = [
            f"episode {step.episode}/{self._episodes} {step.at_s:4.1f} s | {step.rate_hz:.1f} Hz, tick late "
            f"{1000 * step.late_s:.1f} ms, read to sent {1000 * step.work_s:.1f} ms | plan {plan}, "
            f"{plans.late} late{state}",
            f"tip at [{', '.join(f'{x:.3f}' for x in self._tip.place(step.reading.values)[0])}] m",
        ]
        if not self._terminal.live:
            each = ", ".join(f"{kind} {_percent(left)} ({name})" for kind, (name, left) in least.items())
            return [*lines, f"least margins: {each}"]
        lines[1] += f", {100 * margins.box_m:.1f} cm inside its box"
        lines.append("the least margin of each limit of the joints:")
        for kind, (name, left) in least.items():
            filled = round(BAR * min(max(left, 0.0), 1.0)) if math.isfinite(left) else 0
            lines.append(f"  {kind:12} {'█' * filled}{'░' * (BAR - filled)} {_percent(left):>5} {name}")
        return [*lines, f"token {plan_text(follower, self._token, self._hz)}"]


def plan_text(follower: PlanFollower, token: TokenConfig, hz: float) -> str:
    """Return the plan being followed, in the vocabulary's notation."""
    answer = follower.answer
    if answer is None:
        return "waiting for the first plan"
    return text(Move.of(each, token.control_points, token.degree, answer.length / hz) for each in answer.tokens)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "?"


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
