"""Plays a written plan on an arm: motions through the gate at a control rate, events reported as they occur."""

import math
import sys
import termios
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from configs.arm.session import ENDS, arm_of, ended, return_home
from configs.reporting import say
from policies.tokens.playback import Playback
from policies.tokens.vocabulary import Ask, Move, Sentence, Token, read_sentence, text
from robot.arms import connect, gated
from robot.drivers import WrittenDriver
from robot.loop import Loop, Smoothness
from robot.safety.limits import ARM, RANGES
from robot.settings import PlayConfig
from robot.ticks import Clock, SimulatedTime, Ticks
from sim.so101.joints import GRIPPER
from worldmodel.errors import UserError

SCENE = "so101-touch"
LONGEST_S = 3600.0
HELD_BACK_DEG = 5.0  # a deviation of the last command from the plan that is worth a line
COLUMN = list(RANGES).index(GRIPPER)


def play(config: PlayConfig, _folder: Path) -> dict:
    """Play the plan that `config` names. Raises ValueError, OSError; Ended if a fault or a signal stops it."""
    plan, hz = read_plan(config.plan), config.control_hz
    with ExitStack() as stack:
        inner = arm_of(config, stack, SCENE, hz, {})
        clock: Clock = SimulatedTime(inner) if config.simulated else time
        robot = gated(inner, config.preset, stop_on_fault=True, clock=clock)
        smooth = Smoothness(hz, slice(COLUMN))
        loop = Loop(robot, ARM, Ticks(hz, clock), [smooth], say)
        connect(robot)
        say(f"{robot}: {text(plan)}, limits={config.preset}")
        try:
            with ExitStack() as connected:
                connected.push(robot)
                found = np.clip(ARM.shares(loop.read().joints), -1, 1)
                fastest = 2 * ARM.spans(robot.gate.limits.column("rate")) / (ARM.high - ARM.low)
                played = _follow(loop, list(Playback(plan, found, hz, gripper=COLUMN, fastest=fastest)))
                timing = loop.ticks.summary()
                if played["left_deg"] > HELD_BACK_DEG:
                    far = f"{played['left_deg']:.0f} degrees from where the plan had it"
                    say(f"the limits held it back: a joint is {far}")
                seconds = round(loop.ticks.passed / hz, 3)
                if not config.simulated:
                    return_home(loop, ARM.at(found))
        except ENDS as end:
            raise ended(end) from end
    return {
        "plan": text(plan),
        **played,
        "seconds": seconds,
        **smooth.summary(),
        **timing,
        "driver": robot.name,
        "robot": config.robot,
        "limits": config.preset,
    }


def read_plan(file: str) -> Sentence:
    """Read a plan of motions for the arm. Raises ValueError."""
    plan, where = read_sentence(Path(file), places=True), f"plan={file}"
    if not plan:
        raise UserError(f"{where}: no token in it; a list of tokens, as in docs/arm.json")
    moves = [token for token in plan if isinstance(token, Move)]
    if (lasts := sum(move.seconds for move in moves)) > LONGEST_S:
        raise UserError(f"{where}: {lasts:.0f} s of motion; at most {LONGEST_S:.0f}")
    if wrong := [width for move in moves if (width := move.points.shape[1]) != len(RANGES)]:
        joints = f"{len(RANGES)} joints, {', '.join(RANGES)}"
        raise UserError(f"{where}: its motions have {wrong[0]} columns; the SO-101 has {joints}")
    return plan


def _follow(loop: Loop, items: list) -> dict:
    """Play all items, resting at each question; return the events as text, whether it ended, and deviations."""
    events, farthest, left = list[str](), 0.0, 0.0

    def report(at: float, event: Token) -> None:
        events.append(f"{at:.2f} s {event}")
        say(events[-1])

    finished = True
    while items and finished:
        end = next((i for i, (_, item) in enumerate(items) if isinstance(item, Ask)), len(items))
        driver = WrittenDriver(items[:end], ARM.at, report)
        loop.episode(driver, driver.steps)
        driver.report_until(math.inf)
        if driver.steps:
            farthest, left = max(farthest, driver.farthest), driver.left
        if end < len(items):
            loop.rest()
            report(*items[end])
            finished = _answered()
        items = items[end + 1 :]
    return {"events": events, "finished": finished, "farthest_deg": round(farthest, 3), "left_deg": round(left, 3)}


def _answered() -> bool:
    """Return whether the user, at a question, has the plan go on."""
    say("Enter goes on, anything else ends it here")
    if sys.stdin is None:
        return False
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)  # discard what was typed before the question
    try:
        return not input().strip()
    except EOFError:
        return False
