"""A sentence of tokens on an arm: its motions through the gate at a control rate, its events told as they come."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.arms import wired
from configs.command import FAILED, SIGNALLED, Ended, say
from policies.notation import read_sentence
from policies.vocabulary import Ask, Move, Sentence, Token, text
from policies.walking import Walk
from robot.arms import connect, gated, simulated
from robot.faults import RobotFault, in_one_line
from robot.gated import SUFFIX, GatedRobot
from robot.limits import GRIPPER, RANGES
from robot.running.settings import PlayConfig
from robot.running.smoothness import Smoothness
from robot.signals import Stopped
from robot.so101_sim import SimulatedTime
from robot.ticks import Ticks
from robot.which import SIM

SCENE = "so101-touch"
HOME_S, SLOWEST = 2.0, 0.4
"""Back to where it was found in so many seconds at least, no joint by more than this share of its range a second."""
LOW, HIGH = np.array(list(RANGES.values())).T
COLUMN = list(RANGES).index(GRIPPER)


@dataclass
class Playing:
    """One sentence, and what came of it."""

    config: PlayConfig
    sentence: Sentence
    events: list[str] = field(default_factory=list)
    farthest: float = 0.0

    @classmethod
    def begin(cls, config: PlayConfig) -> "Playing":
        """Read the sentence. Raises ValueError, OSError."""
        sentence = read_sentence(Path(config.sentence))
        for token in sentence:
            if isinstance(token, Move) and token.points.shape[1] != len(RANGES):
                raise ValueError(
                    f"sentence={config.sentence}: its motions have {token.points.shape[1]} columns; the SO-101 has "
                    f"{len(RANGES)} joints, {', '.join(RANGES)}"
                )
        return cls(config, sentence)

    def run(self) -> dict:
        """Play it to its end. Raises ValueError, OSError, and Ended for what stopped it."""
        config = self.config
        with ExitStack() as stack:
            inner = simulated(SCENE, float(config.control_hz)) if config.robot == SIM else wired(config, stack)
            clock = SimulatedTime(inner) if config.robot == SIM else time
            robot = gated(inner, config.preset, stop_on_fault=True, clock=clock)
            connect(robot)
            say(f"{robot}: {text(self.sentence)}, limits={config.preset}")
            try:
                with ExitStack() as connected:
                    connected.push(robot)
                    return self._play(robot, Ticks(config.control_hz, clock))
            except (RobotFault, Stopped, ExceptionGroup) as end:  # the group: of the shutdown
                code = SIGNALLED + end.number if isinstance(end, Stopped) else FAILED
                raise Ended(in_one_line(end), code) from end

    def _play(self, robot: GatedRobot, ticks: Ticks) -> dict:
        found = _place(robot.get_observation())
        smooth = Smoothness(ticks.hz)
        walk = Walk(self.sentence, np.clip(found, -1, 1), ticks.hz, gripper=COLUMN)
        finished, timing = self._follow(robot, ticks, walk, smooth), ticks.summary()
        seconds = timing["ticks"] / ticks.hz
        if self.config.robot != SIM:
            self._home(robot, ticks, np.clip(found, -1, 1))
        return {
            "sentence": text(self.sentence),
            "events": self.events,
            "finished": finished,
            "seconds": round(seconds, 3),
            "farthest_deg": round(self.farthest, 3),
            **smooth.summary(),
            **timing,
            "driver": robot.name,
            "robot": self.config.robot,
            "limits": self.config.preset,
        }

    def _follow(self, robot: GatedRobot, ticks: Ticks, walk: Walk, smooth: Smoothness) -> bool:
        """Do all that a walk gives, at rest where it asks; whether it went on to the end."""
        items = list(walk)
        while items:
            asks = [i for i, (_, item) in enumerate(items) if isinstance(item, Ask)]
            end = asks[0] if asks else len(items)
            smooth.begin()
            self._move(robot, ticks, items[:end], smooth)
            if asks and not self._answered(robot, *items[end]):
                return False
            items = items[end + 1 :]
        return True

    def _move(self, robot: GatedRobot, ticks: Ticks, items: list, smooth: Smoothness) -> None:
        actions = [(at, item) for at, item in items if isinstance(item, np.ndarray)]
        events = [(at, item) for at, item in items if not isinstance(item, np.ndarray)]
        last = -1
        for i in ticks.run(len(actions)):
            at, action = actions[i]
            while events and events[0][0] <= at:
                self._tell(*events.pop(0))
            now = ticks.clock.monotonic()
            here = robot.get_observation()
            goal = LOW + (action + 1) / 2 * (HIGH - LOW)
            sent = robot.send_action({f"{name}{SUFFIX}": x for name, x in zip(RANGES, goal, strict=True)}, now)
            off = np.array([here[f"{name}{SUFFIX}"] for name in RANGES]) - goal
            self.farthest = max(self.farthest, float(np.abs(off[:COLUMN]).max()))
            joints = [sent[f"{name}{SUFFIX}"] for name in RANGES if name != GRIPPER]
            smooth.take(np.radians(joints), i - last)
            last = i
        for event in events:
            self._tell(*event)

    def _answered(self, robot: GatedRobot, at: float, question: Ask) -> bool:
        """Ask at rest; whether to go on."""
        robot.rest()
        self._tell(at, question)
        say("Enter goes on, Ctrl-D ends it here")
        try:
            input()
        except EOFError:
            return False
        return True

    def _tell(self, at: float, event: Token) -> None:
        self.events.append(f"{at:.2f} s {event}")
        say(self.events[-1])

    def _home(self, robot: GatedRobot, ticks: Ticks, place: np.ndarray) -> None:
        """Slowly back to where it was found, for it sinks when it is let go."""
        here = np.clip(_place(robot.get_observation()), -1, 1)
        seconds = max(HOME_S, float(np.abs(place - here).max()) / 2 / SLOWEST)
        back = Walk([Move(np.array([here, place]), seconds, 1)], here, ticks.hz)
        self._follow(robot, ticks, back, Smoothness(ticks.hz))


def _place(observation: dict) -> np.ndarray:
    """Where the joints (6,) are, in their ranges scaled to [-1, 1]; beyond, if they are."""
    values = np.array([observation[f"{name}{SUFFIX}"] for name in RANGES])
    return 2 * (values - LOW) / (HIGH - LOW) - 1
