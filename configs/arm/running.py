"""A run of a checkpoint on an arm: whether it suits the arm; its planner, cameras, view and episodes."""

import contextlib
import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lerobot.robots import Robot

from configs.arm.live import NoView, TerminalView, WebView, shown
from configs.arm.planning import begin_of, planner_client
from configs.arm.session import ENDS, arm_of, return_home
from configs.reporting import say
from configs.runs.loading import renamed, task_of
from envs.senses import Senses
from envs.settings import TaskConfig, check_sentence
from envs.state_estimator import STILL, StateEstimator, scene_bodies
from policies.alarms import GAUGES, Alarms, Watch, check_count
from policies.guidance.chosen import wishes_of
from policies.guidance.judge import Judge
from policies.guidance.storage import read_spec as guidance_spec
from policies.planner_link.messages import LARGEST
from policies.storage.checkpoint import AgentSpec, find_checkpoint, read_spec
from policies.storage.folders import stamped
from policies.tools import Asker
from policies.training.rollouts import evaluation_seeds
from robot.arms import configured, connect, gated
from robot.cameras import CameraBuffer, SteadyCamera, in_a_line
from robot.drivers import PlanFollower
from robot.loop import Loop, Smoothness
from robot.safety.stops import Stopped
from robot.settings import CAMERAS, REAL, SIM, RunConfig
from robot.ticks import Ticks, no_collection
from sim.so101.joints import Units
from sim.so101.tasks import FULL, TASKS
from worldmodel.errors import in_one_line
from worldmodel.strict import ConfigError

TRIES = 3  # the run ends after this many faults on the way to an episode's start
ROOM_FOR_REST = 1 << 16  # bytes of a message reserved for all but its frames


def run(config: RunConfig, _folder: Path) -> dict:
    """Run as `RunSession` does; nothing is left in a folder."""
    return RunSession.begin(config).run()


class Fulfilment:
    """Judges, step by step, whether an arm fulfils its guidance. `episodes`: of each, its quantities so far."""

    def __init__(self, judge: Judge, estimator: StateEstimator):
        self.judge, self._estimator = judge, estimator
        self.episodes: list[list[np.ndarray]] = []

    def __call__(self) -> bool:
        """Return whether all terms hold where the arm was last read."""
        self.episodes[-1].append(self._estimator.quantities())
        return bool(self.judge.holds(torch.from_numpy(self.episodes[-1][-1])).all())

    def summary(self) -> dict:
        """Return the share of the last tenth of each episode at which all terms held, in the mean."""
        lived = [np.stack(each) for each in self.episodes if each]
        return {"guidance_satisfied": round(self.judge.satisfied(lived)[0], 4) if lived else None}


@dataclass
class RunSession:
    """One run, as `config` says, of the checkpoint of `spec` at `path`; `task` is what it was trained on."""

    config: RunConfig
    path: Path
    spec: AgentSpec
    task: TaskConfig

    @classmethod
    def begin(cls, config: RunConfig) -> "RunSession":
        """Find the checkpoint and check that it suits the config. Raises ConfigError, FolderError, ValueError."""
        path = find_checkpoint(Path(config.checkpoint))
        spec = read_spec(path)
        task = renamed(task_of(spec), config.on_task)
        if not task.is_arm:
            raise ConfigError(f"checkpoint={config.checkpoint}: for {task.label}, not for one of the SO-101's tasks")
        if config.calibrate:
            check_count(config.calibrate, config.calibrate, config.false_alarms)
            config = replace(config, episodes=config.calibrate)
        session = cls(config, path, spec, task)
        session.check()
        return session

    @property
    def senses(self) -> Senses:
        """The senses that the checkpoint perceives."""
        return Senses.of(self.spec.senses)

    @property
    def needs_places(self) -> bool:
        """Whether the checkpoint perceives where the task's objects are: the full state."""
        return self.senses.state and self.task.state == FULL

    @property
    def instruction(self) -> str:
        """The instruction for the checkpoint: the user's or the task's own; empty without language."""
        return (self.config.instruction or self.task.words) if self.senses.language else ""

    @property
    def seconds(self) -> float:
        """The length of an episode in seconds: as configured, or else as in training."""
        task, own = self.task, TASKS[self.task.name].seconds
        if self.config.seconds or not task.max_control_steps:
            return self.config.seconds or own
        return min(own, task.max_control_steps / task.arm.control_hz)

    def check(self) -> None:
        """Raise ConfigError, in one line, if the checkpoint cannot be run as `config` says."""
        self._check_places()
        self._check_cameras()
        if self.config.instruction and not self.senses.language:
            raise ConfigError(f"instruction={self.config.instruction}: the checkpoint was trained without language")
        if self.senses.language:
            check_sentence(self.instruction, "instruction")

    def _check_places(self) -> None:
        """Raise ConfigError if nothing gives or shows where the task's objects are, or `target` is outside training."""
        config, name = self.config, self.task.name
        guided = config.guidance.given or config.remote or self.task.guidance
        if self.task.reward == "none" and not guided:
            raise ConfigError(
                f"checkpoint={config.checkpoint}: trained without reward; guidance= says what it is to do"
            )
        if not self.needs_places and not self.senses.cameras and not guided:
            raise ConfigError(f"checkpoint={config.checkpoint}: of task.state=joints without a camera: no sense of it")
        if config.simulated or not self.needs_places:
            return
        if name not in STILL:
            raise ConfigError(
                f"robot={config.robot}: {name} needs to know how its objects move, which only {SIM} does; "
                f"{', '.join(STILL)} do not, nor does a checkpoint of task.state=joints and cameras"
            )
        if config.robot == REAL and not config.target:
            raise ConfigError("target=: where the task's object is, x, y, z in metres from the arm's base (x forward)")
        if config.target and (why := TASKS[name].untrained(config.target)):
            raise ConfigError(f"target={config.target}: {name} is {why}")

    def _check_cameras(self) -> None:
        """Raise ConfigError for wrong cameras, or for frames too large to send to the planner."""
        config, names = self.config, self.senses.cameras
        given = CAMERAS if config.simulated else config.robot_cameras
        has = f"the checkpoint's cameras are {', '.join(names) or 'none'}"
        if lacking := [name for name in names if name not in given]:
            example = f"{{{lacking[0]}: {{type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}}}"
            here = f"{SIM} has {', '.join(CAMERAS)}" if config.simulated else f"e.g. 'robot_cameras={example}'"
            raise ConfigError(f"{has}; {here}, not {lacking[0]}" if config.simulated else f"{has}; {here}")
        if more := [name for name in config.robot_cameras if name not in names]:
            raise ConfigError(f"robot_cameras.{more[0]}: {has}")
        configured(config.robot_cameras)
        pixels = sum(3 * height * width for height, width in self.senses.sizes.values())
        size, most = len(self.spec.model.vision.frame_lags) * pixels, LARGEST - ROOM_FOR_REST
        if size > most:
            raise ConfigError(f"{has}: {size} bytes at a time; at most {most} reach a planner")

    def run(self) -> dict:
        """Run all episodes. Returns what happened. Raises ValueError, OSError if the run cannot begin."""
        config, hz = self.config, self.task.arm.control_hz
        with contextlib.ExitStack() as stack:
            show = self._view()
            stack.callback(show.close)
            trace = f"runs/traces/{stamped(os.getpid())}" if config.trace else ""
            asker = Asker(config.ask_timeout_s, show.say) if config.ask or config.ladder else None
            show.asker = asker
            follower, inner = self.follower(stack, show.say, trace, asker)
            estimator = follower.estimator
            wishes = wishes_of(config.guidance, bare=True) or self.task.guidance
            judged = wishes and not config.ask
            fulfilment = Fulfilment(Judge(wishes, estimator.names), estimator) if judged else None
            robot = gated(inner, config.preset)
            smooth = Smoothness(hz)
            units = Units(estimator.targets.low, estimator.targets.high)
            loop = Loop(robot, units, Ticks(hz), [smooth, lambda step: show(step, follower)], show.say)
            connect(robot)
            say(f"{robot}: {self.task.label}, limits={config.preset}")
            results: list[bool | None] = []
            end = self._drive(loop, follower, results, fulfilment)
        if config.calibrate and end in ("done", "fault"):
            self._calibrate(follower, results)
        known = [done for done in results if done is not None]
        return {
            "success_rate": float(np.mean(known)) if known else None,
            "episodes": len(results),
            **(fulfilment.summary() if fulfilment else {}),
            "control_hz": loop.ticks.mean_hz,
            **follower.plans.summary(),
            **loop.ticks.summary(),
            "planner_losses": follower.planner.losses,
            "trace": trace or None,
            "ladder": follower.rungs if asker or config.remote else None,
            "faults": loop.faults,
            "driver": loop.robot.name,
            "robot": config.robot,
            "task": self.task.label,
            "limits": config.preset,
            "ended": end,
            **smooth.summary(),
        }

    def follower(
        self, stack: contextlib.ExitStack, say: Callable[[str], None], trace: str = "", asker: Asker | None = None
    ) -> tuple[PlanFollower, Robot]:
        """Return what follows the checkpoint's plans, and the arm; closing `stack` ends all."""
        config, hz, senses = self.config, self.task.arm.control_hz, self.senses
        begin = begin_of(self.spec, task_of(self.spec), config.lead, self.instruction)
        link = planner_client(stack, config, self.path, begin, say, trace)
        with ThreadPoolExecutor(1) as meanwhile:  # connecting and making the scene both take seconds
            connecting = meanwhile.submit(link.connect)
            estimator = StateEstimator(self.task, senses.state)
            stack.callback(estimator.close)
            inner = arm_of(config, stack, self.task.name, hz, senses.sizes, config.seed)
            inner.cameras = inner.cameras or shown(config)
            if not config.simulated:
                inner.cameras |= {name: SteadyCamera(name, each, say) for name, each in inner.cameras.items()}
                stack.enter_context(in_a_line())
            connecting.result()
        cameras = CameraBuffer(senses.sizes, self.spec.model.vision.frame_lags, not senses.state, hz, say)
        bodies = (lambda: scene_bodies(inner.scene)) if config.simulated else (lambda: None)
        lead = min(config.lead, begin.every)
        follower = PlanFollower(estimator, link, hz, lead, cameras, bodies, say, asker, config.ladder)
        follower.waits = math.ceil(config.ask_timeout_s * hz) * (asker is not None)
        return follower, inner

    def _drive(
        self, loop: Loop, follower: PlanFollower, results: list[bool | None], fulfilment: Fulfilment | None
    ) -> str:
        """Run all episodes, shut down whatever ends them, and return "done", "fault" or a signal's name."""
        judged = self.config.simulated or self.needs_places or bool(self.config.target)
        judge = fulfilment or (follower.estimator.success if judged else None)
        steps = round(self.seconds * loop.ticks.hz) + 1  # 1: to see the last
        try:
            with contextlib.ExitStack() as stack, no_collection():
                stack.push(loop.robot)
                home = loop.read().joints
                for episode in range(self.config.episodes):
                    if not self.prepare(loop, follower, episode):
                        return "fault"
                    if fulfilment:
                        fulfilment.episodes.append([])
                    results.append(loop.episode(follower, steps, judge))
                    outcome = {True: "done", False: "not done", None: "over"}[results[-1]]
                    loop.say(f"episode {episode + 1}: {outcome}")
                    if loop.robot.fault is not None and not loop.recover(follower):
                        return "fault"
                return "done" if self.config.simulated or return_home(loop, home) else "fault"
        except ENDS as end:
            line = in_one_line(end)
            if isinstance(end, Stopped):
                say(line)
                return signal.Signals(end.number).name
            loop.faults.append(line)
            say(f"stopped: {line}")
            return "fault"

    def prepare(self, loop: Loop, follower: PlanFollower, episode: int) -> bool:
        """Lay out an episode and bring the arm to its starting position. Returns whether it got there."""
        (seed,) = evaluation_seeds(self.config.seed, episode, 1)
        estimator = follower.estimator
        estimator.lay_out(seed)
        follower.begin(seed)
        if self.config.simulated:
            loop.rest()
            loop.robot.robot.reset(seed)
            loop.moved()
            return True
        if self.config.target:
            estimator.aim(np.array(self.config.target))
        for _ in range(TRIES):
            if not (why := loop.move_to(estimator.start)):
                return True
            if loop.robot.fault is None:
                loop.faults.append(f"not at the episode's beginning: {why}")
                say(f"stopped: {loop.faults[-1]}")
                return False
            if not loop.recover(follower):
                return False
        return False

    def _calibrate(self, follower: PlanFollower, results: list[bool | None]) -> None:
        """Make the alarms of this robot. Raises UserError if too few episodes were good."""
        watch, unknown = Watch(), [math.nan] * len(GAUGES)
        lived = follower.gauges[-len(results) :]
        watch.rows = [[tuple(each) if len(each) else tuple(unknown) for each in episode] for episode in lived]
        good = None if None in results else np.array(results, bool)
        sentence = "; ".join(guidance_spec(path).sentence for path, _ in self.config.guidance.each)
        alarms = Alarms.of(watch, good, self.config.false_alarms, self.path, self.task.label, sentence)
        say(f"alarms of {alarms.episodes} good episodes: {alarms.keep(self.path, self.config.robot)}")

    def _view(self) -> NoView:
        config, token, hz = self.config, self.spec.model.token, self.task.arm.control_hz
        if config.viewer == "web":
            return WebView(token, hz, f"{self.task.label} on {config.robot}", config.episodes, config.viewer_port)
        return NoView() if config.viewer == "none" else TerminalView(token, hz, config.episodes)
