"""Plays a written plan on an arm: motions through the gate at a control rate, events reported as they occur."""

import math
import sys
import termios
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.arm.session import ENDS, arm_of, ended, return_home
from configs.reporting import say
from policies.tokens.playback import Playback
from policies.tokens.vocabulary import Ask, Move, Sentence, Token, read_sentence, text
from robot.arms import connect, gated
from robot.drivers import WrittenDriver
from robot.loop import Loop, Smoothness
from robot.safety.limits import ARM, GRIPPER, RANGES
from robot.settings import PlayConfig
from robot.ticks import Clock, SimulatedTime, Ticks
from worldmodel.errors import UserError

SCENE = "so101-touch"
LONGEST_S = 3600.0
HELD_BACK_DEG = 5.0
"""A deviation of the last command from the plan that is worth a line."""
COLUMN = list(RANGES).index(GRIPPER)


@dataclass
class PlaySession:
    """One plan and its playback; `events`: those so far, as text. `farthest`, `left`: as `WrittenDriver`'s."""

    config: PlayConfig
    plan: Sentence
    events: list[str] = field(default_factory=list)
    farthest: float = 0.0
    left: float = 0.0

    @classmethod
    def begin(cls, config: PlayConfig) -> "PlaySession":
        """Read the plan and check it. Raises ValueError."""
        plan, where = read_sentence(Path(config.plan), places=True), f"plan={config.plan}"
        if not plan:
            raise UserError(f"{where}: no token in it; a list of tokens, as in docs/arm.json")
        moves = [token for token in plan if isinstance(token, Move)]
        if (lasts := sum(move.seconds for move in moves)) > LONGEST_S:
            raise UserError(f"{where}: {lasts:.0f} s of motion; at most {LONGEST_S:.0f}")
        if wrong := [width for move in moves if (width := move.points.shape[1]) != len(RANGES)]:
            joints = f"{len(RANGES)} joints, {', '.join(RANGES)}"
            raise UserError(f"{where}: its motions have {wrong[0]} columns; the SO-101 has {joints}")
        return cls(config, plan)

    def run(self) -> dict:
        """Play the plan. Returns what happened. Raises ValueError, OSError; Ended if a fault or signal stops it."""
        config = self.config
        with ExitStack() as stack:
            inner = arm_of(config, stack, SCENE, config.control_hz, {})
            clock: Clock = SimulatedTime(inner) if config.simulated else time
            robot = gated(inner, config.preset, stop_on_fault=True, clock=clock)
            smooth = Smoothness(config.control_hz, slice(COLUMN))
            loop = Loop(robot, ARM, Ticks(config.control_hz, clock), [smooth], say)
            connect(robot)
            say(f"{robot}: {text(self.plan)}, limits={config.preset}")
            try:
                with ExitStack() as connected:
                    connected.push(robot)
                    return self._play(loop, smooth)
            except ENDS as end:
                raise ended(end) from end

    def _play(self, loop: Loop, smooth: Smoothness) -> dict:
        robot, ticks = loop.robot, loop.ticks
        found = np.clip(ARM.shares(loop.read().joints), -1, 1)
        fastest = 2 * ARM.spans(robot.gate.limits.column("rate")) / (ARM.high - ARM.low)
        items = list(Playback(self.plan, found, ticks.hz, gripper=COLUMN, fastest=fastest))
        finished, timing = self._follow(loop, items), ticks.summary()
        if self.left > HELD_BACK_DEG:
            say(f"the limits held it back: a joint is {self.left:.0f} degrees from where the plan had it")
        result = {
            "plan": text(self.plan),
            "events": self.events,
            "finished": finished,
            "seconds": round(ticks.passed / ticks.hz, 3),
            "farthest_deg": round(self.farthest, 3),
            "left_deg": round(self.left, 3),
            **smooth.summary(),
            **timing,
            "driver": robot.name,
            "robot": self.config.robot,
            "limits": self.config.preset,
        }
        if not self.config.simulated:
            return_home(loop, ARM.at(found))
        return result

    def _follow(self, loop: Loop, items: list) -> bool:
        """Play all items of the playback, resting at each question. Returns whether it came to their end."""
        while items:
            end = next((i for i, (_, item) in enumerate(items) if isinstance(item, Ask)), len(items))
            driver = WrittenDriver(items[:end], ARM.at, self._report)
            loop.episode(driver, driver.steps)
            driver.report_until(math.inf)
            if driver.steps:
                self.farthest, self.left = max(self.farthest, driver.farthest), driver.left
            if end < len(items) and not self._answered(loop, *items[end]):
                return False
            items = items[end + 1 :]
        return True

    def _answered(self, loop: Loop, at: float, question: Ask) -> bool:
        """Bring the arm to rest and ask the user. Returns whether to go on."""
        loop.rest()
        self._report(at, question)
        say("Enter goes on, anything else ends it here")
        if sys.stdin is None:
            return False
        if sys.stdin.isatty():
            termios.tcflush(sys.stdin, termios.TCIFLUSH)  # discard what was typed before the question
        try:
            return not input().strip()
        except EOFError:
            return False

    def _report(self, at: float, event: Token) -> None:
        self.events.append(f"{at:.2f} s {event}")
        say(self.events[-1])
