"""A recording session: an arm, its driver, episodes that are safe on disk once finished, a dataset and its picture."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.arm.priority import ORDINARY, hurried
from configs.arm.session import ENDS, arm_of, ended
from configs.reporting import Ended, say
from robot.arms import connect, gated, teleoperator
from robot.drivers import ScriptDriver, TeleopDriver
from robot.loop import Driver, Loop, Step
from robot.recording.parts import MEASURED, SUCCESS, EpisodeInfo, Parts
from robot.recording.review import Review, picture
from robot.recording.settings import EXPERT, POLICY, PREFIX, RecordConfig
from robot.safety.gated import SUFFIX, GatedRobot
from robot.so101_sim import SimulatedTime
from robot.ticks import Clock, Ticks
from robot.units import ARM, Units
from sim.so101.experts import Unreachable
from worldmodel.errors import UserError

SLOW = 0.98  # fraction of the requested rate below which a warning is printed
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's quota, is full
TRIES = 50  # consecutive layouts that a script may reject


@dataclass
class Recording:
    """A recording session with the settings `config`.

    `scheduling`: the priority granted to the control loop. `skipped`: layouts left out because a script cannot reach
    them.
    """

    config: RecordConfig
    scheduling: str = ORDINARY
    skipped: int = 0

    def run(self) -> dict:
        """Record the missing episodes, merge them into the dataset and draw its picture. Returns the summary.

        Raises ValueError, OSError, and Ended for what ends the session early.
        """
        config, dataset = self.config, Path(self.config.dataset)
        os.environ.setdefault("SVT_LOG", "1")  # the video encoder: errors only
        with ExitStack() as stack:
            size = config.camera["height"], config.camera["width"]
            inner = arm_of(config, stack, config.task_name, config.control_hz, dict.fromkeys(config.cameras, size))
            clock: Clock = time if config.waits else SimulatedTime(inner)
            robot = gated(inner, config.preset, stop_on_fault=True, clock=clock)
            kind = robot.robot_type or robot.name
            parts = stack.enter_context(Parts(dataset, self._features(robot), config.control_hz, kind))
            say(f"{dataset}: {parts.finished} of {config.episodes} episodes are there")
            with ending(dataset, parts):
                try:
                    if parts.finished < config.episodes:
                        self._record(robot, clock, parts)
                finally:
                    parts.merge()
        review = Review.of(dataset)
        summary = review.summary()
        drawn = dataset.with_name(f"{dataset.name}.png")
        picture(drawn, dataset, review.title)
        each = "; ".join(f"{count} of {task!r}" for task, count in summary["tasks"].items())
        several = f" ({each})" if len(summary["tasks"]) > 1 else ""
        say(f"{summary['episodes']} episodes{several}, {summary['frames']} frames: {dataset}, {drawn}")
        return {
            **summary,
            "dataset": str(dataset),
            "picture": str(drawn),
            "robot": config.robot,
            "skipped": self.skipped,
            "paced": config.waits,
            "scheduling": self.scheduling,
        }

    def _features(self, robot: GatedRobot) -> dict:
        from lerobot.utils.feature_utils import hw_to_dataset_features

        one = {"shape": (1,), "names": None}
        features = hw_to_dataset_features(robot.observation_features, "observation", self.config.video)
        features |= hw_to_dataset_features(robot.action_features, "action")
        features[MEASURED] = {"dtype": "float64", **one}
        if self.config.simulated:
            features[SUCCESS] = {"dtype": "bool", **one}
        return features

    def _record(self, robot: GatedRobot, clock: Clock, parts: Parts) -> None:
        config = self.config
        connect(robot)
        with ExitStack() as stack:
            stack.push(robot)
            units = robot.robot.units if config.simulated else ARM
            driver = self._driver(robot, units)
            robot.close_with(driver.close)  # after the arm has come to rest
            while parts.finished < config.episodes:
                self._episode(robot, units, driver, clock, parts)
                if config.reset_seconds and parts.finished < config.episodes:
                    say(f"{config.reset_seconds:g} s to put things back: not recorded")
                    self._drive(Loop(robot, units, Ticks(config.control_hz, clock)), driver, config.reset_seconds)

    def _episode(self, robot: GatedRobot, units: Units, driver: Driver, clock: Clock, parts: Parts) -> None:
        config, number = self.config, parts.finished
        seed = self._begin(robot, driver, number)
        ticks, sentence = Ticks(config.control_hz, clock), self._sentence(robot)
        with ExitStack() as stack:
            with robot.held():  # no signal between opening a file and arranging its closing
                draft = stack.enter_context(parts.episode())

            def keep(step: Step) -> None:
                draft.add(step.reading.observation, step.action, sentence, step.at_s, step.success)

            done = self._drive(Loop(robot, units, ticks, [keep]), driver, config.longest_s)
            rate = ticks.mean_hz or float(config.control_hz)
            told = {None: "", True: ", success", False: ", no success"}[done]
            with robot.held():  # no signal may lose a finished episode, nor the line that says so
                draft.save(EpisodeInfo(seed, done, rate, ticks.late, config.by))
                say(f"episode {number + 1} of {config.episodes}: safe{told}, {draft.frames} frames, {rate:.1f} Hz")
        if rate < SLOW * config.control_hz:
            say(
                f"too slow: {rate:.1f} Hz instead of {config.control_hz}, {ticks.late} of {draft.frames} frames late, "
                f"{ticks.skipped} left out; {MEASURED} tells when each really was"
            )

    def _drive(self, loop: Loop, driver: Driver, seconds: float) -> bool | None:
        """Run an episode; however it ends, the arm comes to rest before anything else happens (e.g. saving)."""
        robot = loop.robot
        judge = (lambda: robot.robot.success) if self.config.simulated else None
        with hurried(self.config.real_time) as self.scheduling:
            try:
                return loop.episode(driver, round(seconds * loop.ticks.hz), judge)
            finally:
                loop.rest()

    def _begin(self, robot: GatedRobot, driver: Driver, number: int) -> int:
        """Lay out the scene (in simulation) and begin episode `number`. Returns the layout's seed.

        Layouts that the script cannot reach are left out. Raises ValueError after TRIES of them in a row.
        """
        for attempt in range(TRIES):
            seed = int(np.random.SeedSequence([self.config.seed, number, attempt]).generate_state(1)[0])
            if self.config.simulated:
                robot.robot.reset(seed)
                robot.forget()
            try:
                driver.begin(seed)
            except Unreachable as error:
                self.skipped += 1
                say(f"left out a layout: {error}")
                continue
            return seed
        raise UserError(f"task={self.config.task}: {TRIES} layouts in a row are out of the script's reach")

    def _sentence(self, robot: GatedRobot) -> str:
        if self.config.sentence:
            return self.config.sentence
        if self.config.simulated:
            return robot.robot.scene.task_description
        return self.config.task.removeprefix(PREFIX)

    def _driver(self, robot: GatedRobot, units: Units) -> Driver:
        if self.config.by == EXPERT:
            return ScriptDriver(robot.robot)
        if self.config.by == POLICY:
            from configs.arm.piloting import pilot  # importing torch takes seconds

            return pilot(self.config, robot.robot)
        keys = [name + SUFFIX for name in robot.gate.limits.names]
        return TeleopDriver(teleoperator(self.config.teleop), keys, units)


@contextmanager
def ending(dataset: Path, parts: Parts) -> Iterator[None]:
    """Turn what ends a session early (signal, fault, full disk) into Ended, which tells how many episodes are safe."""
    try:
        yield
    except (*ENDS, OSError) as end:
        more = f"; {parts.finished} episodes are safe, the same command goes on"
        if not isinstance(end, OSError):
            raise ended(end, more) from end
        if end.errno not in FULL:
            raise
        raise Ended(f"{dataset}: {os.strerror(end.errno)}{more}") from end
