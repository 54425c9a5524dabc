"""What a person sees of a run: a line a second or, in a browser here, a page with a button that stops it."""

import contextlib
import json
import math
import re
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import numpy as np
from lerobot.cameras import Camera

from configs.page import inline, jpeg, page, short
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import svg
from policies.planner_link.messages import ASKED, Answer
from policies.tokens.vocabulary import Move, text
from policies.tools import Asker
from robot.config_so101 import sim_cameras
from robot.drivers import PlanFollower
from robot.loop import Step
from robot.settings import RunConfig
from robot.so101 import SimCamera
from sim.renderer import choose_backend
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError
from worldmodel.settings import TokenConfig

REDRAW_S, LINE_S = 0.2, 1.0  # how often a page is drawn anew, and how often a line is printed
LINES = 50  # how many of the newest lines for people the page gets
PLAN_EVERY = 3
"""A glyph takes the interpreter from the loop for milliseconds, so only every so many events bring a new one."""
PATIENCE_S = 2.0  # a browser that takes nothing for this long is given up
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"


def _moves(answer: Answer, token: TokenConfig, hz: float) -> list[Move]:
    """Return the motions of a plan."""
    return [Move.of(each, token.control_points, token.degree, answer.length / hz) for each in answer.tokens]


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
        answer = follower.answer
        return "waiting for the first plan" if answer is None else text(_moves(answer, self._token, self._hz))


class Onlooker(SimCamera):
    """A simulated camera for people: it draws anew every REDRAW_S at most, since the loop waits for it."""

    _at, _frame = -math.inf, np.zeros(0, np.uint8)

    def read(self, *_, **__) -> np.ndarray:
        """Return the newest frame."""
        if time.monotonic() - self._at >= REDRAW_S:
            self._frame, self._at = super().read(), time.monotonic()
        return self._frame

    async_read = read_latest = read


def shown(config: RunConfig) -> dict[str, Camera]:
    """Return the camera through which the page shows a simulated arm that has none; nothing where none can draw."""
    if config.viewer != "web" or not config.simulated or choose_backend() == "disabled":
        return {}
    return {name: Onlooker(each) for name, each in sim_cameras({"side": (240, 320)}, round(1 / REDRAW_S)).items()}


class WebView(NoView):
    """Serves the run at `url`, to this machine alone: the page, Server-Sent Events for it, POSTs that stop or answer.

    The stop is Ctrl-C's own signal, so it goes through the gate as that does. The address has a random part: no other
    user or page can look or stop. What a browser gets is made in a thread for each, and nothing where none looks.
    `asked`: the newest question to the planner, which `semagram-why live=` fetches.
    """

    def __init__(self, token: TokenConfig, hz: float, title: str, episodes: int, port: int = 0):
        """Begin to serve at a port (0: any that is free), in the thread that is to stop. Raises UserError."""
        self._token, self._hz, self._about = token, hz, {"title": title, "episodes": episodes}
        self._lines = deque[tuple[float, str]](maxlen=LINES)
        self._now: tuple[Step, Answer | None, dict] | None = None
        self._main = threading.get_ident()
        self.asked = b""
        self._fault = ""  # the one for which the arm stands now
        self._over = threading.Event()
        place = f"/{secrets.token_urlsafe(9)}/"
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self, place))
        except OSError as error:
            raise UserError(f"viewer_port={port}: {error.strerror}; 0 is any that is free") from error
        jpeg(np.zeros((1, 1, 3), np.uint8))  # now, as the first of each imports for long, for which no arm should wait
        svg(glyph([Move.of(np.zeros(token.control_points), token.control_points, token.degree, 1 / hz)]))
        self._server.daemon_threads = False  # `close` waits until each has sent its last event
        self.url = f"http://127.0.0.1:{self._server.server_port}{place}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self._thread.start()
        self.say(f"watch it, and stop it, at {self.url}")

    def __call__(self, step: Step, follower: PlanFollower) -> None:
        """Leave a step for those who look."""
        plans = follower.plans
        more = {"plan_ms": short(plans.plan_ms[-1]) if plans.plan_ms else None, "late_plans": plans.late}
        late = ["the next plan is late: the arm follows the last curve to rest"] if follower.waiting else []
        alarms = [follower.alarm] if follower.alarm else late
        self.asked = follower.planner.asked
        self._now, self._fault = (step, follower.answer, more | {"alarms": alarms}), ""

    def say(self, text: str) -> None:
        """Print a line, and show it."""
        super().say(text)
        self._lines.append((time.time(), text))
        if text.startswith("stopped: "):
            self._fault = text

    def close(self) -> None:
        """Tell those who look that the run is over, and end."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def stop(self) -> None:
        """Stop the run, as Ctrl-C does."""
        self.say("stopped from the page")
        signal.pthread_kill(self._main, signal.SIGINT)

    def events(self) -> Iterator[bytes]:
        """Yield an event every REDRAW_S, until the run is over."""
        shown = None
        for number in count():
            over = self._over.wait(REDRAW_S)
            answer = self._now and self._now[1]
            event = self._about | {"alarms": []} | self._state() | {"over": over, "lines": list(self._lines)}
            event["question"] = self.asker and self.asker.question
            event["choices"] = self.asker.choices if self.asker else ()
            event["alarms"] = [self._fault, *event["alarms"]] if self._fault else event["alarms"]
            if answer is not shown and number % PLAN_EVERY == 0:
                event["glyph"], shown = self._glyph(answer), answer
            yield f"data: {json.dumps(event, allow_nan=False)}\n\n".encode()
            if over:
                return

    def _state(self) -> dict:
        """Return the newest step as plain data; empty before the first."""
        if self._now is None:
            return {}
        step, _, more = self._now
        margins, seen = step.margins, step.reading.observation
        frames = {name: value for name, value in seen.items() if isinstance(value, np.ndarray) and value.ndim == 3}
        return more | {
            **{"episode": step.episode, "at_s": round(step.at_s, 2), "rate_hz": short(step.rate_hz)},
            **{"late_ms": short(1000 * step.late_s), "box_cm": short(100 * margins.box_m)},
            "margins": [[kind, name, short(left)] for kind, (name, left) in margins.least().items()],
            "frames": {name: jpeg(frame) for name, frame in frames.items()},
        }

    def _glyph(self, answer: Answer | None) -> str:
        """Return a plan's glyph as SVG."""
        if answer is None:
            return ""
        moves = _moves(answer, self._token, self._hz)
        drawn = [shape for shape in glyph(moves) if shape.role != "wash"]  # an answer has no deviation
        return inline(svg(drawn, "the plan"))


def _handler(view: WebView, place: str) -> type[BaseHTTPRequestHandler]:
    """Return what answers requests for `place` and below; all others are refused."""
    body = page("live").encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_GET(self) -> None:
            if self.path == place:
                self._answer(200, "text/html; charset=utf-8", body)
            elif self.path == f"{place}{ASKED}" and view.asked:
                self._answer(200, "application/octet-stream", view.asked)
            elif self.path == f"{place}events":
                self._answer(200, "text/event-stream")
                for event in view.events():
                    self.wfile.write(event)
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            answered = re.fullmatch(f"{re.escape(place)}answer/([0-9]{{1,3}})", self.path)
            if answered and view.asker and view.asker.answer(int(answered[1])):
                return self._answer(204)
            if self.path != f"{place}stop":
                return self.send_error(404)
            view.stop()
            return self._answer(204)

        def _answer(self, code: int, kind: str = "", body: bytes = b"") -> None:
            self.send_response(code)
            for name, value in (("Content-Type", kind), ("Content-Security-Policy", POLICY)):
                self.send_header(name, value)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            """Answer; a browser that has left is no error."""
            try:
                super().handle()
            except OSError:
                self.close_connection = True

        def log_message(self, *_) -> None:
            """Print nothing: the terminal is the run's."""

    return Handler
