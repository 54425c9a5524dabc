"""A recording session: an arm, its driver, episodes that are safe on disk once finished, a dataset and its picture."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from configs.arm.running import RunSession
from configs.arm.session import ENDS, arm_of, ended
from configs.reporting import Ended, say
from configs.runs.loading import Loaded, load_agent
from envs.arm import known, labels, vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.decisions.trace import traced
from policies.storage.checkpoint import find_checkpoint, read_spec
from policies.text_encoder import WORDS
from robot.arms import connect, gated, teleoperator
from robot.config_so101 import sim_cameras
from robot.datasets import quiet
from robot.drivers import PlanFollower, ScriptDriver, TeleopDriver
from robot.loop import Driver, Loop, Reading, Step
from robot.recording import INTERVENTION, MEASURED, SCENE, SUCCESS, EpisodeInfo, Parts, picture, summary
from robot.safety.gated import SUFFIX, GatedRobot
from robot.safety.limits import ARM
from robot.settings import CAMERAS, EXPERT, POLICY, SCRIPT, TELEOP, EpisodeConfig, RecordConfig, RunConfig
from robot.so101 import SimCamera, SO101Sim
from robot.takeover import HELP, MOVED_RAD, Keys, Person, Rescue, Takeover
from robot.ticks import Clock, SimulatedTime, Ticks
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
    """A checkpoint's agent, which observes the simulated arm's scene as in training; `instruction`: "" for its own."""

    def __init__(self, robot: SO101Sim, loaded: Loaded, instruction: str = ""):
        """Open the agent's own cameras, besides the robot's. Raises ValueError if one is missing or cannot render."""
        task, self._senses = loaded.task, loaded.spec.senses
        self._robot, self._agent = robot, loaded.agent
        self._targets = Targets.at(task.arm.control_hz, *so101.limits(robot.scene), task.arm.control)
        self._parts = known(so101.components(robot.scene), task.arm.state)
        self._words = {LANGUAGE_KEY: WORDS.encode([instruction or task.words])} if LANGUAGE_KEY in self._senses else {}
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
            state = vector(self._robot.scene.state(), self._parts, target)
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
    """A recording session as `config` says. `skipped`: layouts left out because a script cannot reach them.

    `_planned`: of a checkpoint that drives an arm which is not simulated, its run, and what follows its plans.
    """

    config: RecordConfig
    skipped: int = 0
    _keys: Keys | None = None
    _planned: tuple[RunSession, PlanFollower] | None = None
    _agent: Agent | None = None

    def run(self) -> dict:
        """Record the missing episodes, merge and draw them. Raises ValueError, OSError, Ended if it ends early."""
        config, dataset = self.config, Path(self.config.dataset)
        os.environ.setdefault("SVT_LOG", "1")  # the video encoder: errors only
        with ExitStack() as stack:
            size = config.camera["height"], config.camera["width"]
            if config.driver == POLICY and not config.simulated:
                run = self._run()
                follower, inner = run.follower(stack, say)
                self._planned = run, follower
            else:
                inner = arm_of(config, stack, config.task_name, config.control_hz, dict.fromkeys(config.cameras, size))
            if config.takeover == TELEOP:
                self._keys = Keys()
                stack.callback(self._keys.close)
                with quiet():
                    self._keys.listen(config.pedal)
                say(HELP if self._keys.there else "no keyboard here: only the leader takes over, nobody tells success")
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
        what = next(iter(found["tasks"])) if len(found["tasks"]) == 1 else f"{len(found['tasks'])} tasks:"
        rate = "" if found["success_rate"] is None else f", {found['success_rate']:.0%} succeeded"
        picture(drawn, dataset, f"{what}  {found['episodes']} episodes by {' and '.join(found['by'])}{rate}")
        each = "; ".join(f"{count} of {task!r}" for task, count in found["tasks"].items())
        several = f" ({each})" if len(found["tasks"]) > 1 else ""
        say(f"{found['episodes']} episodes{several}, {found['frames']} frames: {dataset}, {drawn}")
        return {**found, "dataset": str(dataset), "picture": str(drawn), "robot": config.robot, "skipped": self.skipped}

    def _features(self, robot: GatedRobot) -> dict:
        from lerobot.utils.feature_utils import hw_to_dataset_features

        one = {"shape": (1,), "names": None}
        features = hw_to_dataset_features(robot.observation_features, "observation")
        features |= hw_to_dataset_features(robot.action_features, "action")
        features[MEASURED] = {"dtype": "float64", **one}
        if self.config.takeover:
            features[INTERVENTION] = {"dtype": "bool", **one}
        if self._judge(robot):
            features[SUCCESS] = {"dtype": "bool", **one}
        if self.config.simulated:
            names = labels(so101.components(self.config.task_name))
            features[SCENE] = {"dtype": "float32", "shape": (len(names),), "names": names}
        return features

    def _record(self, robot: GatedRobot, clock: Clock, parts: Parts) -> None:
        config = self.config
        connect(robot)
        with ExitStack() as stack:
            stack.push(robot)
            units = robot.robot.units if config.simulated else ARM
            if self._planned is not None:
                targets = self._planned[1].estimator.targets
                units = Units(targets.low, targets.high)
            driver = self._driver(robot, units)
            stack.enter_context(traced(self._agent, config.trace_folder, {"checkpoint": config.checkpoint}))
            robot.close_with(driver.close)  # after the arm has come to rest
            while parts.finished < config.episodes:
                self._episode(robot, units, driver, clock, parts)
                if config.reset_seconds and parts.finished < config.episodes:
                    say(f"{config.reset_seconds:g} s to put things back: not recorded")
                    resting = Driver() if config.takeover else driver
                    self._drive(Loop(robot, units, Ticks(config.control_hz, clock)), resting, config.reset_seconds)

    def _driver(self, robot: GatedRobot, units: Units) -> Driver:
        config, hz = self.config, self.config.control_hz
        if config.driver == EXPERT:
            return ScriptDriver(robot.robot)
        if config.driver == TELEOP:
            return self._leader(robot, units)
        policy = self._policy(robot.robot) if self._planned is None else self._planned[1]
        if config.takeover == SCRIPT:
            return Takeover(policy, Rescue(robot.robot, config.takeover_s), hz)
        if self._keys is None:
            return policy
        person = Person(self._leader(robot, units), self._keys, hz, MOVED_RAD, config.give_back_s)
        return Takeover(policy, person, hz, self._keys)

    def _leader(self, robot: GatedRobot, units: Units) -> TeleopDriver:
        return TeleopDriver(teleoperator(self.config.teleop), [n + SUFFIX for n in robot.gate.limits.names], units)

    def _policy(self, robot: SO101Sim) -> PolicyDriver:
        config = self.config
        loaded = load_agent(config.checkpoint, config.seed, config.device, config.threads, config.planner)
        self._check_task(loaded.task)
        self._agent = loaded.agent
        return PolicyDriver(robot, loaded, config.instruction)

    def _run(self) -> RunSession:
        """Return the run of the checkpoint on an arm that is not simulated. Raises ConfigError, UserError."""
        config, senses = self.config, Senses.of(read_spec(find_checkpoint(Path(self.config.checkpoint))).senses)
        keys = {each.name: getattr(config, each.name) for each in fields(EpisodeConfig)}
        keys |= {"instruction": config.instruction if senses.language else "", "target": config.target}
        run = RunSession.begin(RunConfig(**keys))
        self._check_task(run.task)
        return run

    def _check_task(self, task: TaskConfig) -> None:
        config = self.config
        name = config.task_name if config.simulated else task.name
        if task.name != name or task.control_hz != config.control_hz:
            rate = f" at {task.control_hz} Hz" if task.control_hz else ""
            raise UserError(
                f"checkpoint={config.checkpoint}: is for task={task.label}{rate}, not {name} at {config.control_hz} Hz"
            )

    def _episode(self, robot: GatedRobot, units: Units, driver: Driver, clock: Clock, parts: Parts) -> None:
        config, number = self.config, parts.finished
        seed = self._begin(Loop(robot, units, Ticks(config.control_hz, clock), say=say), driver, number)
        ticks, helped = Ticks(config.control_hz, clock), list[bool]()
        task = config.instruction or robot.robot.scene.task_description
        with ExitStack() as stack:
            with robot.held():  # no signal between opening a file and arranging its closing
                draft = stack.enter_context(parts.episode())
            if self._agent is not None and self._agent.trace is not None:
                self._agent.trace.place = lambda: ([number], [draft.frames])

            def keep(step: Step) -> None:
                scene = self._scene(robot.robot) if config.simulated else {}
                theirs = driver.intervention if isinstance(driver, Takeover) else None
                helped.extend([] if theirs is None else [theirs])
                draft.add(step.reading.observation | scene, step.action, task, step.at_s, step.success, theirs)

            done = self._drive(Loop(robot, units, ticks, [keep]), driver, config.longest_s)
            if self._keys is not None and self._keys.said == "r":
                say(f"episode {number + 1} of {config.episodes}: again")
                return
            rate = ticks.mean_hz or float(config.control_hz)
            outcome = {None: "", True: ", success", False: ", no success"}[done]
            with robot.held():  # no signal may lose a finished episode, nor the line that says so
                sim_task = config.task_name if config.simulated else None
                share = float(np.mean(helped)) if helped else None
                draft.save(EpisodeInfo(seed, done, rate, ticks.late, config.driver, sim_task, share))
                say(f"episode {number + 1} of {config.episodes}: safe{outcome}, {draft.frames} frames, {rate:.1f} Hz")
        if rate < SLOW * config.control_hz:
            say(
                f"too slow: {rate:.1f} Hz instead of {config.control_hz}, {ticks.late} of {draft.frames} frames late, "
                f"{ticks.skipped} left out; {MEASURED} has the time of each"
            )

    def _drive(self, loop: Loop, driver: Driver, seconds: float) -> bool | None:
        """Run an episode; however it ends, the arm comes to rest before anything else happens (e.g. saving)."""
        judge = self._judge(loop.robot)
        try:
            return loop.episode(driver, round(seconds * loop.ticks.hz), judge)
        finally:
            loop.rest()

    def _judge(self, robot: GatedRobot) -> Callable[[], bool] | None:
        """Return what tells whether the task is done: the simulation, or a person by their keys; None without both."""
        keys = self._keys if self._keys is not None and self._keys.there else None
        if self.config.simulated:
            return lambda: robot.robot.success or (keys is not None and keys.said == "s")
        return None if keys is None else lambda: keys.said == "s"

    def _begin(self, loop: Loop, driver: Driver, number: int) -> int:
        """Lay the scene out or take the arm to its start; return the layout's seed. Raises ValueError, Ended."""
        robot = loop.robot
        if self._planned is not None:
            run, follower = self._planned
            if not run.prepare(loop, follower, number):
                raise Ended(f"stopped: {loop.faults[-1]}")
            loop.rest()  # opening the episode's files takes a while
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

    def _scene(self, robot: SO101Sim) -> dict[str, float]:
        """Return the numbers of the simulated task's state at the last reading, by name."""
        (observation, target), parts = robot.seen, so101.components(robot.scene)
        return dict(zip(labels(parts), vector(observation, parts, target).tolist(), strict=True))


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
