"""Sinks of a loop's steps: how smoothly the arm is commanded; a view on a terminal, elsewhere of a line a second."""

import math
import sys
from collections import deque
from typing import TextIO

import numpy as np

from policies.tokens.vocabulary import Move, text
from robot.loop import Step
from robot.running.plan_follower import PlanFollower
from robot.terminal import Terminal
from sim.so101.kinematics import Fingertip
from worldmodel.settings import TokenConfig

REDRAW_S, LINE_S = 0.2, 1.0
BAR = 20


class Smoothness:
    """Over all targets sent: their mean squared jerk in rad^2/s^6, and the largest step of a joint in rad.

    The jerk, averaged over joints and time, is what reaching hands minimise: Flash & Hogan 1985, eq. 1. It is the third
    difference of targets one control step apart, times the rate cubed, so the first three targets of an episode, or
    after a skipped tick, have none. `joints`: of a loop's steps, those that count.
    """

    def __init__(self, hz: float, joints: slice = slice(None)):
        self._hz, self._joints = hz, joints
        self._last: deque[np.ndarray] = deque(maxlen=4)
        self._squares, self._count = 0.0, 0
        self.largest_step = 0.0

    def __call__(self, step: Step) -> None:
        """Take in a step of a loop."""
        target = step.sent[self._joints]
        if step.number == 0 or step.reading.steps > 1:
            self._last.clear()
        self._last.append(target)
        if len(self._last) > 1:
            self.largest_step = max(self.largest_step, float(np.abs(target - self._last[-2]).max()))
        if len(self._last) == self._last.maxlen:
            jerk = np.diff(self._last, 3, axis=0) * self._hz**3
            self._squares, self._count = self._squares + float(np.square(jerk).mean()), self._count + 1

    @property
    def mean_squared_jerk(self) -> float:
        """In rad^2/s^6; NaN before there is any."""
        return self._squares / self._count if self._count else math.nan

    def summary(self) -> dict[str, float | None]:
        """Return largest_step_deg and mean_squared_jerk (rad^2/s^6), which is None if too few targets were sent."""
        jerk = round(self.mean_squared_jerk, 3) if self._count else None
        return {"largest_step_deg": round(math.degrees(self.largest_step), 3), "mean_squared_jerk": jerk}


class Nothing:
    """A view that prints lines and shows no ticks."""

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Ignore the step."""

    def say(self, text: str) -> None:
        """Print a line to stderr."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: nothing is left to show."""


class View(Nothing):
    """Shows a loop's steps on `stream` at a limited rate. `token`: how the answers' tokens are to be read."""

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
        lines.append(f"token {sentence(follower, self._token, self._hz)}")
        return lines


def sentence(follower: PlanFollower, token: TokenConfig, hz: float) -> str:
    """Return the plan being followed, in the vocabulary's notation."""
    answer = follower.answer
    if answer is None:
        return "waiting for the first plan"
    return text(Move.of(each, token.control_points, token.degree, answer.length / hz) for each in answer.tokens)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "?"
