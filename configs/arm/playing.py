"""Plays a sentence of tokens on an arm: motions through the gate at a control rate, events reported as they occur."""

import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.arm.arms import wired
from configs.reporting import FAILED, SIGNALLED, Ended, say
from policies.tokens.notation import read_sentence
from policies.tokens.playback import Playback
from policies.tokens.vocabulary import Ask, Move, Sentence, Token, text
from robot.arm_options import SIM
from robot.arms import connect, gated, simulated
from robot.running.settings import PlayConfig
from robot.running.smoothness import Smoothness
from robot.safety.faults import RobotFault, in_one_line
from robot.safety.gated import SUFFIX, GatedRobot
from robot.safety.limits import GRIPPER, RANGES
from robot.safety.signals import Stopped
from robot.so101_sim import SimulatedTime
from robot.ticks import Clock, Ticks
from worldmodel.mistakes import Mistake

SCENE = "so101-touch"
LONGEST_S = 3600.0
HOME_S, SHARE, PATIENCE_S, NEAR = 2.0, 0.5, 10.0, 5.0
"""The way back to where the arm was found: its minimum duration (s), the largest fraction of the limits' rates to use,
how long to wait for arrival (s), and within which tolerance (degrees; for the gripper, percent)."""
LOW, HIGH = np.array(list(RANGES.values())).T
COLUMN = list(RANGES).index(GRIPPER)


@dataclass
class Playing:
    """One sentence and its playback.

    `events`: the events so far, as text. `farthest`: the largest deviation of a joint from its curve. `left`: how far
    the last command sent was from the sentence's. Both in degrees, over the joints except the gripper.
    """

    config: PlayConfig
    sentence: Sentence
    events: list[str] = field(default_factory=list)
    farthest: float = 0.0
    left: float = 0.0

    @classmethod
    def begin(cls, config: PlayConfig) -> "Playing":
        """Read the sentence and check it. Raises ValueError."""
        sentence = read_sentence(Path(config.sentence), places=True)
        if not sentence:
            raise Mistake(f"sentence={config.sentence}: no token in it; a list of tokens, as in docs/arm.json")
        if (lasts := sum(token.seconds for token in sentence if isinstance(token, Move))) > LONGEST_S:
            raise Mistake(f"sentence={config.sentence}: {lasts:.0f} s of motion; at most {LONGEST_S:.0f}")
        for token in sentence:
            if isinstance(token, Move) and token.points.shape[1] != len(RANGES):
                raise Mistake(
                    f"sentence={config.sentence}: its motions have {token.points.shape[1]} columns; the SO-101 has "
                    f"{len(RANGES)} joints, {', '.join(RANGES)}"
                )
        return cls(config, sentence)

    def run(self) -> dict:
        """Play the sentence. Returns what happened. Raises ValueError, OSError; Ended if a fault or signal stops it."""
        config = self.config
        with ExitStack() as stack:
            inner = simulated(SCENE, float(config.control_hz)) if config.robot == SIM else wired(config, stack)
            clock: Clock = SimulatedTime(inner) if config.robot == SIM else time
            robot = gated(inner, config.preset, stop_on_fault=True, clock=clock)
            connect(robot)
            say(f"{robot}: {text(self.sentence)}, limits={config.preset}")
            try:
                with ExitStack() as connected:
                    connected.push(robot)
                    return self._play(robot, Ticks(config.control_hz, clock))
            except (RobotFault, Stopped, ExceptionGroup) as end:  # the group: errors of the shutdown
                code = SIGNALLED + end.number if isinstance(end, Stopped) else FAILED
                raise Ended(in_one_line(end), code) from end

    def _play(self, robot: GatedRobot, ticks: Ticks) -> dict:
        found = np.clip(_place(robot.get_observation()), -1, 1)
        smooth = Smoothness(ticks.hz)
        fastest = robot.gate.limits.column("rate") / (HIGH - LOW) * 2
        walk = Playback(self.sentence, found, ticks.hz, gripper=COLUMN, fastest=fastest)
        finished, timing = self._follow(robot, ticks, walk, smooth), ticks.summary()
        if self.left > NEAR:
            say(f"the limits held it back: a joint is {self.left:.0f} degrees from where the sentence had it")
        result = {
            "sentence": text(self.sentence),
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
        if self.config.robot != SIM:
            self._home(robot, ticks, found)
        return result

    def _follow(self, robot: GatedRobot, ticks: Ticks, walk: Playback, smooth: Smoothness) -> bool:
        """Execute all items of the playback, resting at each question. Returns whether it ran to its end."""
        items = list(walk)
        while items:
            asks = [(i, at, item) for i, (at, item) in enumerate(items) if isinstance(item, Ask)]
            end = asks[0][0] if asks else len(items)
            smooth.begin()
            self._move(robot, ticks, items[:end], smooth)
            if asks and not self._answered(robot, *asks[0][1:]):
                return False
            items = items[end + 1 :]
        return True

    def _move(self, robot: GatedRobot, ticks: Ticks, items: list, smooth: Smoothness) -> None:
        actions = [(at, item) for at, item in items if isinstance(item, np.ndarray)]
        events = [(at, item) for at, item in items if not isinstance(item, np.ndarray)]
        last = -1
        for i in _to_the_last(ticks.run(len(actions)), len(actions)):
            at, action = actions[i]
            while events and events[0][0] <= at:
                self._tell(*events.pop(0))
            now = ticks.clock.monotonic()
            here = robot.get_observation()
            goal = _goal(action)
            sent = _values(robot.send_action(_command(goal), now))
            self.farthest = max(self.farthest, float(np.abs(_values(here) - goal)[:COLUMN].max()))
            self.left = float(np.abs(sent - goal)[:COLUMN].max())
            smooth.take(np.radians(sent[:COLUMN]), i - last)
            last = i
        for event in events:
            self._tell(*event)

    def _answered(self, robot: GatedRobot, at: float, question: Ask) -> bool:
        """Bring the arm to rest and ask the user. Returns whether to go on."""
        robot.rest()
        self._tell(at, question)
        say("Enter goes on, anything else ends it here")
        if sys.stdin is None:
            return False
        if sys.stdin.isatty():
            termios.tcflush(sys.stdin, termios.TCIFLUSH)  # discard what was typed before the question
        try:
            return not input().strip()
        except EOFError:
            return False

    def _tell(self, at: float, event: Token) -> None:
        self.events.append(f"{at:.2f} s {event}")
        say(self.events[-1])

    def _home(self, robot: GatedRobot, ticks: Ticks, place: np.ndarray) -> None:
        """Move slowly back to `place`, where the arm was found (scaled as by `_place`): it sinks when released."""
        here = np.clip(_place(robot.get_observation()), -1, 1)
        way = np.abs(place - here) / 2 * (HIGH - LOW)
        seconds = max(HOME_S, float((way / robot.gate.limits.column("rate")).max()) / SHARE)
        steps = round(seconds * ticks.hz)
        for i in ticks.run(steps + round(PATIENCE_S * ticks.hz)):
            now = ticks.clock.monotonic()
            off = np.abs(_place(robot.get_observation()) - place) / 2 * (HIGH - LOW)
            if i >= steps and off.max() < NEAR:
                return
            robot.send_action(_command(_goal(here + (place - here) * min(1.0, (i + 1) / steps))), now)
        joint = int(np.argmax(off))
        say(f"not quite where it was found: {list(RANGES)[joint]} is {off[joint]:.0f} degrees off")


def _to_the_last(moments: Iterator[int], count: int) -> Iterator[int]:
    """Yield the ticks from `moments` and, even if it was skipped, the last of all `count`."""
    last = -1
    for last in moments:
        yield last
    if last < count - 1:
        yield count - 1


def _values(observation: dict) -> np.ndarray:
    return np.array([observation[f"{name}{SUFFIX}"] for name in RANGES])


def _place(observation: dict) -> np.ndarray:
    """Return the joints' positions (6,), scaled so that each one's range is [-1, 1]; not clipped."""
    return 2 * (_values(observation) - LOW) / (HIGH - LOW) - 1


def _goal(action: np.ndarray) -> np.ndarray:
    """Return the joint goals (6,) of an action (6,) in [-1, 1], in the robot's units."""
    return LOW + (action + 1) / 2 * (HIGH - LOW)


def _command(goal: np.ndarray) -> dict[str, float]:
    return {f"{name}{SUFFIX}": float(x) for name, x in zip(RANGES, goal, strict=True)}
