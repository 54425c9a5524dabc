"""A run of a checkpoint on an arm: the arm, the task's eyes, the planner and the view, put together and taken apart."""

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.robots import Robot

from configs.arms import wired
from configs.assembly import perceived
from configs.command import say
from configs.evaluation import find
from configs.planning import LocalPlanner, remote_reach
from configs.priority import hurried
from configs.strict import ConfigError
from envs.mirror import STILL, Mirror, scene_bodies
from envs.senses import Senses
from envs.sentences import check as check_sentence
from envs.settings import TaskConfig
from policies.checkpoint import Identity, read_identity
from policies.rollouts import episode_seeds
from policies.serving.link import Link
from policies.serving.messages import LARGEST, Begin
from policies.serving.sealing import read_secret
from policies.words import Words
from robot.arms import connect, gated, new_gate, simulated
from robot.camera_kinds import configured
from robot.config_sim_camera import SimCameraConfig
from robot.faults import RobotFault, in_one_line
from robot.recording.settings import CAMERAS
from robot.running.eyes import Eyes
from robot.running.loop import Loop
from robot.running.settings import RunConfig, split_address
from robot.running.ticks import Ticks, no_collection
from robot.running.view import Nothing, Rerun, View
from robot.signals import Stopped
from robot.steady_camera import SteadyCamera, in_a_line
from robot.units import Units
from robot.which import REAL, SIM
from sim.so101_tasks import FULL, TASKS

ROOM_FOR_REST = 1 << 16  # of a message, beside its frames


@dataclass
class Running:
    """One run. `task`: what the checkpoint was trained on."""

    config: RunConfig
    path: Path
    identity: Identity
    task: TaskConfig

    @classmethod
    def begin(cls, config: RunConfig) -> "Running":
        """Look at the checkpoint. Raises ConfigError, FolderError."""
        path = find(Path(config.checkpoint))
        identity = read_identity(path)
        task = TaskConfig(**identity.task)
        if not task.is_arm:
            raise ConfigError(f"checkpoint={config.checkpoint}: for {task.label}, not for one of the SO-101's tasks")
        running = cls(config, path, identity, task)
        running._check_scene()
        running._check_senses()
        return running

    @property
    def senses(self) -> Senses:
        """What the checkpoint perceives."""
        return perceived(self.identity.senses)

    @property
    def told(self) -> bool:
        """Whether the checkpoint is to be told where the task's things are."""
        return self.senses.state and self.task.state == FULL

    def _check_scene(self) -> None:
        """Raise ConfigError where nobody can tell where the task's things are, and somebody must."""
        config, name = self.config, self.task.name
        if config.robot == SIM or not self.told:
            return
        if name not in STILL:
            raise ConfigError(
                f"robot={config.robot}: {name} must be told how its things move, which only {SIM} does; "
                f"{', '.join(STILL)} need not, nor does a checkpoint of task.state=joints and cameras"
            )
        if config.robot == REAL and not config.target:
            raise ConfigError("target=: where the task's object is, x, y, z in metres from the arm's base (x forward)")

    def _check_senses(self) -> None:
        """Raise ConfigError for cameras that are not those of the checkpoint, and for words that it does not hear."""
        config, senses = self.config, self.senses
        through = f"the checkpoint looks through {', '.join(senses.cameras) or 'no camera'}"
        if config.robot == SIM:
            if lacking := [name for name in senses.cameras if name not in CAMERAS]:
                raise ConfigError(f"{through}; {SIM} has {', '.join(CAMERAS)}, not {lacking[0]}")
        elif lacking := [name for name in senses.cameras if name not in config.robot_cameras]:
            example = f"{{{lacking[0]}: {{type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}}}"
            raise ConfigError(f"{through}; say which that is, e.g. 'robot_cameras={example}'")
        elif more := [name for name in config.robot_cameras if name not in senses.cameras]:
            raise ConfigError(f"robot_cameras.{more[0]}: {through}")
        configured(config.robot_cameras)
        frames = len(senses.cameras) * len(self.identity.model.vision.lags) * 3 * senses.size**2
        if frames > LARGEST - ROOM_FOR_REST:
            raise ConfigError(f"{through}: {frames} bytes at a time; at most {LARGEST - ROOM_FOR_REST} reach a planner")
        if config.sentence and not senses.language:
            raise ConfigError(
                f"sentence={config.sentence}: the checkpoint hears no words; it was trained without language"
            )
        if senses.language:
            try:
                Words().encode([check_sentence(self.sentence, "sentence")])
            except ValueError as error:
                raise ConfigError(f"sentence={config.sentence}: {error}") from error

    @property
    def sentence(self) -> str:
        """What to do, in words, for a checkpoint that hears them."""
        return (self.config.sentence or self.task.words) if self.senses.language else ""

    def run(self) -> dict:
        """Run all episodes; what happened. Raises ValueError, OSError for what keeps it from beginning."""
        config = self.config
        with contextlib.ExitStack() as stack:
            show = self._view()
            link = self._link(stack, show)
            with ThreadPoolExecutor(1) as meanwhile:  # both take seconds
                connecting = meanwhile.submit(link.connect)
                mirror = Mirror(self.task, self.senses.state)
                stack.callback(mirror.close)
                inner = self._arm(stack, show)
                ready = connecting.result()
            robot = gated(inner, config.preset)
            ticks = Ticks(self.task.control_hz)
            units = Units(mirror.targets.low, mirror.targets.high)
            lead = min(config.lead, ready.every)
            bodies = (lambda: scene_bodies(inner.scene)) if config.robot == SIM else (lambda: None)
            judged = config.robot == SIM or self.told or bool(config.target)
            loop = Loop(robot, units, mirror, link, ticks, lead, show, bodies, self._eyes(show), judged)
            scheduling = stack.enter_context(hurried(config.real_time))
            connect(robot)
            say(f"{robot}: {self.task.label}, limits={config.preset}, scheduling: {scheduling}")
            ended = self._drive(loop, mirror)
        return self._summary(loop, link, ended) | {"scheduling": scheduling}

    def _drive(self, loop: Loop, mirror: Mirror) -> str:
        """All episodes, and the shutdown whatever ends them; how it ended."""
        try:
            with contextlib.ExitStack() as stack, no_collection():
                stack.push(loop.robot.__exit__)
                home = loop.read()
                for episode in range(self.config.episodes):
                    if not self._prepare(loop, mirror, episode):
                        return "fault"
                    done = loop.episode(self.config.seconds or TASKS[self.task.name].seconds)
                    told = {True: "done", False: "not done", None: "over"}[done]
                    loop.show.say(f"episode {episode + 1}: {told}")
                    if loop.robot.fault is not None and not loop.recover():
                        return "fault"
                if self.config.robot != SIM:
                    loop.approach(home)
                return "done"
        except Stopped as stopped:
            say(in_one_line(stopped))
            return signal.Signals(stopped.number).name
        except (RobotFault, ExceptionGroup) as fault:  # the group: what went wrong in the shutdown
            loop.faults.append(in_one_line(fault))
            say(f"stopped: {loop.faults[-1]}")
            return "fault"

    def _prepare(self, loop: Loop, mirror: Mirror, episode: int) -> bool:
        """Lay out an episode and bring the arm to its beginning; whether it is there."""
        (seed,) = episode_seeds(self.config.seed, 1, episode, 1)
        mirror.lay_out(seed)
        robot = loop.robot
        if self.config.robot == SIM:
            robot.rest()
            robot.robot.reset(seed)
            loop.placed(new_gate(robot.robot, self.config.preset))
            return True
        if self.config.target:
            mirror.aim(np.array(self.config.target))
        if not loop.approach(mirror.start) and loop.robot.fault is not None:
            return loop.recover()
        return True

    def _view(self):
        config = self.config
        if config.viewer == "rerun":
            return Rerun()
        if config.viewer == "none":
            return Nothing()
        return View(self.identity.model.token, self.task.control_hz, config.episodes)

    def _arm(self, stack: contextlib.ExitStack, show) -> Robot:
        config = self.config
        if config.robot == SIM:
            size = {"width": self.senses.size, "height": self.senses.size, "fps": round(self.task.control_hz)}
            cameras = {name: SimCameraConfig(view=CAMERAS[name], **size) for name in self.senses.cameras}
            return simulated(self.task.name, self.task.control_hz, config.seed, cameras)
        robot = wired(config, stack, config.robot_cameras)
        for name, camera in robot.cameras.items():
            robot.cameras[name] = SteadyCamera(name, camera, show.say)
        stack.enter_context(in_a_line())
        return robot

    def _eyes(self, show) -> Eyes:
        senses, lags = self.senses, self.identity.model.vision.lags
        if not senses.cameras:
            return Eyes()
        return Eyes(senses.cameras, senses.size, lags, not senses.state, self.task.control_hz, show.say)

    def _link(self, stack: contextlib.ExitStack, show) -> Link:
        """To the planner. The deadline leaves half of the lead for the way there and back, and for being late."""
        config, hz = self.config, self.task.control_hz
        token, every = self.identity.model.token, self.identity.planner.replan_every
        lead = min(config.lead, every or token.length)
        cameras, size = ",".join(self.senses.cameras), self.senses.size if self.senses.cameras else 0
        sizes = (self.identity.state_size, self.identity.action_size)
        begin = Begin(self.task.label, *sizes, 500.0 * lead / hz, cameras, size, self.sentence)
        if config.remote:
            reach = remote_reach(split_address(config.remote, "remote"))
            link = Link(reach, read_secret(config.secret), begin, show.say)
        else:
            local = LocalPlanner(self.path, config.seed, config.device, config.threads)
            stack.callback(local.stop)
            link = Link(local.reach, local.secret, begin, show.say, patience_s=None, away_s=0.0)
        stack.callback(link.close)
        return link

    def _summary(self, loop: Loop, link: Link, ended: str) -> dict:
        plans, timing = loop.plans, loop.ticks.summary()
        told = [done for done in loop.successes if done is not None]
        return {
            "success_rate": float(np.mean(told)) if told else None,
            "episodes": len(loop.successes),
            "control_hz": loop.ticks.mean_hz,
            "missed_deadlines": plans.late,
            "plans": plans.count,
            **_percentiles("plan_ms", plans.plan_ms),
            **_percentiles("round_ms", plans.round_ms),
            **timing,
            "planner_losses": link.losses,
            "faults": loop.faults,
            "driver": loop.robot.name,
            "robot": self.config.robot,
            "task": self.task.label,
            "limits": self.config.preset,
            "ended": ended,
        }


def _percentiles(name: str, values: list[float]) -> dict:
    found = [round(float(v), 3) for v in np.percentile(values, [50, 99])] if values else [None, None]
    return {f"{name}_p50": found[0], f"{name}_p99": found[1]}
