"""A session of recording: an arm, who drives it, episodes that are safe when finished, a dataset and its picture."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.priority import hurry
from robot.faults import RobotFault
from robot.gated import GatedRobot
from robot.recording.arms import arm
from robot.recording.drivers import Driver, PolicyDriver, ScriptDriver, TeleopDriver
from robot.recording.loop import play
from robot.recording.pace import Pace
from robot.recording.parts import MEASURED, SUCCESS, EpisodeInfo, Parts
from robot.recording.review import Review, picture
from robot.recording.settings import EXPERT, POLICY, PREFIX, RecordConfig
from robot.recording.teleops import teleoperator
from robot.targets import Targets
from sim.so101_experts import Unreachable

SLOW = 0.98  # of the rate that was asked for: below it, the loop says so
TRIES = 50  # layouts in a row that a script may refuse


@dataclass
class Recording:
    """What is being recorded, as `config` says."""

    config: RecordConfig
    scheduling: str = "ordinary"
    skipped: int = 0

    def run(self) -> dict:
        """Record what is missing, merge, draw. Returns the summary. Raises ValueError, OSError."""
        config, dataset = self.config, Path(self.config.dataset)
        os.environ.setdefault("SVT_LOG", "1")  # the video encoder: errors only
        robot, clock = arm(config)
        with Parts(dataset, self._features(robot), config.control_hz, robot.robot_type or robot.name) as parts:
            _say(f"{dataset}: {parts.finished} of {config.episodes} episodes are there")
            try:
                if parts.finished < config.episodes:
                    self._record(robot, clock, parts)
            except RobotFault as fault:
                raise OSError(f"{fault}; {parts.finished} episodes are safe, the same command goes on") from fault
            finally:
                parts.merge()
        review = Review.of(dataset)
        summary = review.summary()
        drawn = dataset.with_name(f"{dataset.name}.png")
        rate = summary["success_rate"]
        title = f"{review.tasks[-1]}  {summary['episodes']} episodes by {config.by}"
        picture(drawn, dataset, title if rate is None else f"{title}, {rate:.0%} succeeded")
        _say(f"{summary['episodes']} episodes, {summary['frames']} frames: {dataset}, {drawn}")
        return {
            **summary,
            "dataset": str(dataset),
            "picture": str(drawn),
            "robot": config.robot,
            "task": review.tasks[-1],
            "by": config.by,
            "skipped": self.skipped,
            "real_time": config.paced,
            "scheduling": self.scheduling,
        }

    def _features(self, robot: GatedRobot) -> dict:
        from lerobot.utils.feature_utils import hw_to_dataset_features  # noqa: PLC0415

        one = {"shape": (1,), "names": None}
        features = hw_to_dataset_features(robot.observation_features, "observation", self.config.video)
        features |= hw_to_dataset_features(robot.action_features, "action")
        features[MEASURED] = {"dtype": "float64", **one}
        if self.config.simulated:
            features[SUCCESS] = {"dtype": "bool", **one}
        return features

    def _record(self, robot: GatedRobot, clock, parts: Parts) -> None:
        pace = Pace(self.config.control_hz, clock)
        robot.connect(calibrate=self.config.simulated or sys.stdin.isatty())
        with ExitStack() as stack:
            stack.push(robot)
            if not robot.is_calibrated:
                raise ValueError(f"{robot.calibration_fpath}: not what the motors hold; run lerobot-calibrate")
            driver = self._driver(robot)
            stack.callback(driver.close)
            while parts.finished < self.config.episodes:
                self._episode(robot, driver, pace, parts)
                if self.config.reset_seconds and parts.finished < self.config.episodes:
                    _say(f"{self.config.reset_seconds:g} s to put things back: not recorded")
                    with self._hurried():
                        play(robot, driver, pace, self.config.reset_seconds, lambda: None)
                        robot.rest()

    def _episode(self, robot: GatedRobot, driver: Driver, pace: Pace, parts: Parts) -> None:
        config, number = self.config, parts.finished
        seed = self._begin(robot, driver, number)
        judge = (lambda: robot.robot.success) if config.simulated else (lambda: None)
        with parts.episode() as draft:
            with self._hurried():
                done = play(robot, driver, pace, config.longest_s, judge, draft, self._sentence(robot))
                robot.rest()
            draft.save(EpisodeInfo(seed, done, pace.measured_hz, pace.late, config.by))
        told = {None: "", True: ", success", False: ", no success"}[done]
        _say(f"episode {number + 1} of {config.episodes}: safe{told}, {draft.frames} frames, {pace.measured_hz:.1f} Hz")
        if pace.measured_hz < SLOW * config.control_hz:
            _say(
                f"too slow: {pace.measured_hz:.1f} Hz instead of {config.control_hz}, {pace.late} of {pace.ticks} "
                f"frames late; {MEASURED} tells when each really was"
            )

    def _begin(self, robot: GatedRobot, driver: Driver, number: int) -> int:
        """Lay the scene out and begin; the seed that says how. A layout that the script cannot do is left out."""
        for attempt in range(TRIES):
            seed = int(np.random.SeedSequence([self.config.seed, number, attempt]).generate_state(1)[0])
            if self.config.simulated:
                robot.robot.reset(seed)
                robot.forget()
            try:
                driver.begin(seed)
            except Unreachable as error:
                self.skipped += 1
                _say(f"left out a layout: {error}")
                continue
            return seed
        raise ValueError(f"task={self.config.task}: {TRIES} layouts in a row are out of the script's reach")

    def _sentence(self, robot: GatedRobot) -> str:
        if self.config.sentence:
            return self.config.sentence
        if self.config.simulated:
            return robot.robot.scene.unwrapped.task_description
        return self.config.task.removeprefix(PREFIX)

    def _driver(self, robot: GatedRobot) -> Driver:
        if self.config.by == EXPERT:
            return ScriptDriver(robot.robot)
        if self.config.by == POLICY:
            return _policy(self.config, robot.robot)
        return TeleopDriver(teleoperator(self.config.teleop), list(robot.action_features))

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Be served before others while the arm moves, if a second is to last a second."""
        if not self.config.paced or not hasattr(os, "sched_getscheduler"):
            yield
            return
        before, how = os.sched_getscheduler(0), os.sched_getparam(0)
        got = hurry()
        if got != self.scheduling:
            self.scheduling = got
            _say(f"scheduling of the control loop: {got}")
        try:
            yield
        finally:
            os.sched_setscheduler(0, before, how)


def _policy(config: RecordConfig, robot) -> PolicyDriver:
    """A checkpoint as a driver. Raises ValueError for one of another task or rate."""
    from configs.assembly import loaded_agent, prepare  # noqa: PLC0415
    from configs.evaluation import find  # noqa: PLC0415
    from configs.schema import MachineConfig  # noqa: PLC0415
    from envs.arm import seen  # noqa: PLC0415
    from policies.checkpoint import load_model, read_identity  # noqa: PLC0415
    from sim import so101  # noqa: PLC0415

    machine = prepare(MachineConfig(config.device, config.threads, "false"))
    path = find(Path(config.checkpoint))
    identity = read_identity(path)
    learned, hz = identity.task.get("name"), identity.task.get("control_hz")
    if learned != config.task_name or hz != config.control_hz:
        raise ValueError(
            f"checkpoint={config.checkpoint}: is for task={learned} at {hz} Hz, not {config.task_name} at "
            f"{config.control_hz} Hz"
        )
    model = load_model(path, identity).to(machine.device)
    agent, task = loaded_agent(identity, model, config.planner, config.seed)
    targets = Targets.at(task.control_hz, *so101.limits(robot.scene), task.control)
    parts = so101.components(robot.scene)

    def see(scene, target: np.ndarray) -> np.ndarray:
        named = seen(scene.state(), parts, target)
        return np.concatenate([named[name] for name in sorted(named)]).astype(np.float32)

    return PolicyDriver(robot, agent, targets, see)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
