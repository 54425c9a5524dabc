"""A recording session: an arm, its driver, episodes that are safe on disk once finished, a dataset and its picture."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.arm.session import ENDS, arm_of, ended
from configs.reporting import Ended, say
from configs.runs.loading import Loaded, load_agent
from envs.arm import known, seen
from envs.senses import Senses
from policies.text_encoder import WORDS
from robot.arms import connect, gated, teleoperator
from robot.config_so101 import sim_cameras
from robot.drivers import ScriptDriver, TeleopDriver
from robot.loop import Driver, Loop, Reading, Step
from robot.recording import MEASURED, SUCCESS, EpisodeInfo, Parts, picture, summary
from robot.safety.gated import SUFFIX, GatedRobot
from robot.safety.limits import ARM
from robot.settings import CAMERAS, EXPERT, POLICY, RecordConfig
from robot.so101 import SimCamera, SO101Sim
from robot.ticks import ORDINARY, Clock, SimulatedTime, Ticks, hurried
from sim.renderer import RenderingUnavailable, shows
from sim.so101 import scene as so101
from sim.so101.experts import Unreachable
from sim.so101.joints import Targets, Units
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, key

SLOW = 0.98  # fraction of the requested rate below which a warning is printed
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's quota, is full
TRIES = 50  # consecutive layouts that a script may reject


class PolicyDriver(Driver):
    """A checkpoint's agent in the simulated arm's task, whose scene it observes as in training.

    `instruction`: for one with language; the task's own if empty.
    """

    def __init__(self, robot: SO101Sim, loaded: Loaded, instruction: str = ""):
        """Open the agent's own cameras, besides the robot's. Raises ValueError if one is missing or cannot render."""
        task, self._senses = loaded.task, loaded.spec.senses
        self._robot, self._agent = robot, loaded.agent
        self._targets = Targets.at(task.arm.control_hz, *so101.limits(robot.scene), task.arm.control)
        self._parts = known(so101.components(robot.scene), task.arm.state)
        has_language = LANGUAGE_KEY in self._senses
        self._words = {LANGUAGE_KEY: WORDS.encode([instruction or task.words])} if has_language else {}
        self._cameras: dict[str, SimCamera] = {}
        sizes = Senses.of(self._senses).sizes
        if other := [name for name in sizes if name not in CAMERAS]:
            raise UserError(f"checkpoint=: its camera {other[0]} is none of the simulation's, {', '.join(CAMERAS)}")
        for name, config in sim_cameras(sizes, round(task.arm.control_hz)).items():
            camera = self._cameras[key(f"images.{name}")] = SimCamera(config)
            camera.show(robot.scene)
            try:
                camera.connect()
            except RenderingUnavailable as error:
                raise UserError(f"checkpoint=: its camera {name}: {error}") from error

    def begin(self, seed: int = 0) -> None:
        """Seed the agent's generator and forget the last episode."""
        self._agent.generator.manual_seed(seed)
        self._agent.reset(torch.ones(1, dtype=torch.bool))

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the joint goals of the agent's next action."""
        commanded = self._robot.scene.commanded
        return self._targets.next(commanded, self._agent.act(self._observe(commanded))[0].numpy())

    def _observe(self, target: np.ndarray) -> Observation:
        """Return the observation of the one arm while the joint targets are `target` (6,), in rad."""
        values, present = dict(self._words), {}
        if STATE_KEY in self._senses:
            named = seen(self._robot.scene.state(), self._parts, target)
            state = np.concatenate([named[name] for name in sorted(named)]).astype(np.float32)
            values[STATE_KEY] = torch.from_numpy(state[None])
        for name, camera in self._cameras.items():
            frame = camera.read()
            values[name], present[name] = torch.from_numpy(frame.copy()[None]), torch.tensor([shows(frame)])
        return Observation.of(self._senses, values, present)

    def close(self) -> None:
        """Close its cameras."""
        for camera in self._cameras.values():
            camera.disconnect()


def record(config: RecordConfig, _folder: Path) -> dict:
    """Record as `RecordSession` does; the folder is the dataset's own."""
    return RecordSession(config).run()


@dataclass
class RecordSession:
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
        found, drawn = summary(dataset), dataset.with_name(f"{dataset.name}.png")
        picture(drawn, dataset)
        each = "; ".join(f"{count} of {task!r}" for task, count in found["tasks"].items())
        several = f" ({each})" if len(found["tasks"]) > 1 else ""
        say(f"{found['episodes']} episodes{several}, {found['frames']} frames: {dataset}, {drawn}")
        return {
            **found,
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

    def _driver(self, robot: GatedRobot, units: Units) -> Driver:
        config = self.config
        if config.driver == EXPERT:
            return ScriptDriver(robot.robot)
        if config.driver != POLICY:
            return TeleopDriver(teleoperator(config.teleop), [name + SUFFIX for name in robot.gate.limits.names], units)
        loaded = load_agent(config.checkpoint, config.seed, config.device, config.threads, config.planner)
        task = loaded.task
        if task.name != config.task_name or task.control_hz != config.control_hz:
            rate = f" at {task.control_hz} Hz" if task.control_hz else ""
            raise UserError(
                f"checkpoint={config.checkpoint}: is for task={task.label}{rate}, not {config.task_name} at "
                f"{config.control_hz} Hz"
            )
        return PolicyDriver(robot.robot, loaded, config.instruction)

    def _episode(self, robot: GatedRobot, units: Units, driver: Driver, clock: Clock, parts: Parts) -> None:
        config, number = self.config, parts.finished
        seed = self._begin(robot, driver, number)
        ticks, task = Ticks(config.control_hz, clock), self._task(robot)
        with ExitStack() as stack:
            with robot.held():  # no signal between opening a file and arranging its closing
                draft = stack.enter_context(parts.episode())

            def keep(step: Step) -> None:
                draft.add(step.reading.observation, step.action, task, step.at_s, step.success)

            done = self._drive(Loop(robot, units, ticks, [keep]), driver, config.longest_s)
            rate = ticks.mean_hz or float(config.control_hz)
            outcome = {None: "", True: ", success", False: ", no success"}[done]
            with robot.held():  # no signal may lose a finished episode, nor the line that says so
                draft.save(EpisodeInfo(seed, done, rate, ticks.late, config.driver))
                say(f"episode {number + 1} of {config.episodes}: safe{outcome}, {draft.frames} frames, {rate:.1f} Hz")
        if rate < SLOW * config.control_hz:
            say(
                f"too slow: {rate:.1f} Hz instead of {config.control_hz}, {ticks.late} of {draft.frames} frames late, "
                f"{ticks.skipped} left out; {MEASURED} has the time of each"
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
        raise UserError(f"sim_task={self.config.sim_task}: {TRIES} layouts in a row are out of the script's reach")

    def _task(self, robot: GatedRobot) -> str:
        """Return the task in words, as the dataset stores it."""
        return self.config.instruction or robot.robot.scene.task_description


@contextmanager
def ending(dataset: Path, parts: Parts) -> Iterator[None]:
    """Turn what ends a session early (signal, fault, full disk) into Ended, which says how many episodes are safe."""
    try:
        yield
    except (*ENDS, OSError) as end:
        more = f"; {parts.finished} episodes are safe, the same command goes on"
        if not isinstance(end, OSError):
            raise ended(end, more) from end
        if end.errno not in FULL:
            raise
        raise Ended(f"{dataset}: {os.strerror(end.errno)}{more}") from end
