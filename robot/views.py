"""What a person sees of a run: a line a second; `configs.arm.live` shows it as a page."""

import contextlib
import math
import sys

from policies.tokens.vocabulary import Move, text
from policies.tools import Asker
from robot.drivers import PlanFollower
from robot.loop import Step
from sim.so101.kinematics import Fingertip
from worldmodel.settings import TokenConfig

REDRAW_S, LINE_S = 0.2, 1.0
"""How often a page is drawn anew, and how often a line is printed."""


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
            f"{', waiting for one' if follower.waiting else ''}: {self._plan(follower)} | "
            f"tip at [{', '.join(f'{x:.3f}' for x in self._tip.place(step.reading.values)[0])}] m, "
            f"{100 * step.margins.box_m:.1f} cm inside its box | least margins: {margins}"
        )

    def _plan(self, follower: PlanFollower) -> str:
        """Return the plan being followed, in the vocabulary's notation."""
        answer, token = follower.answer, self._token
        if answer is None:
            return "waiting for the first plan"
        seconds = answer.length / self._hz
        return text(Move.of(each, token.control_points, token.degree, seconds) for each in answer.tokens)
