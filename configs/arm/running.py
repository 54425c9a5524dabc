"""A run of a checkpoint on an arm: sets up and tears down the arm, the cameras, the planner and the view."""

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.robots import Robot

from configs.arm.arms import wired
from configs.arm.fit import Fit
from configs.arm.planning import LocalPlanner, remote_reach
from configs.arm.priority import hurried
from configs.reporting import say
from configs.runs.loading import task_of
from configs.strict import ConfigError
from envs.mirror import Mirror, scene_bodies
from envs.settings import TaskConfig
from policies.serving.link import Link
from policies.serving.messages import Begin, camera_list
from policies.serving.sealing import read_secret
from policies.storage.checkpoint import AgentSpec, find_checkpoint, read_spec
from policies.training.rollouts import evaluation_seeds
from robot.arm_options import SIM
from robot.arms import connect, gated, new_gate, simulated
from robot.config_sim_camera import sim_cameras
from robot.running.eyes import Eyes
from robot.running.loop import Loop
from robot.running.rerun_view import Rerun
from robot.running.settings import RunConfig, split_address
from robot.running.view import Nothing, View
from robot.safety.faults import RobotFault, in_one_line
from robot.safety.signals import Stopped
from robot.steady_camera import SteadyCamera, in_a_line
from robot.ticks import Ticks, no_collection
from robot.units import Units
from sim.so101.tasks import TASKS

TRIES = 3
"""The run ends after this many faults on the way to an episode's start."""


@dataclass
class Running:
    """One run of the checkpoint at `path`; `task` is what it was trained on."""

    config: RunConfig
    path: Path
    identity: AgentSpec
    task: TaskConfig
    fit: Fit

    @classmethod
    def begin(cls, config: RunConfig) -> "Running":
        """Find the checkpoint and check that it suits the config. Raises ConfigError, FolderError, ValueError."""
        path = find_checkpoint(Path(config.checkpoint))
        identity = read_spec(path)
        task = task_of(identity)
        if not task.is_arm:
            raise ConfigError(f"checkpoint={config.checkpoint}: for {task.label}, not for one of the SO-101's tasks")
        fit = Fit(config, identity, task)
        fit.check()
        return cls(config, path, identity, task, fit)

    @property
    def seconds(self) -> float:
        """The length of an episode in seconds: as configured, or else as in training."""
        task, own = self.task, TASKS[self.task.name].seconds
        if self.config.seconds or not task.max_control_steps:
            return self.config.seconds or own
        return min(own, task.max_control_steps / task.arm.control_hz)

    def run(self) -> dict:
        """Run all episodes. Returns what happened. Raises ValueError, OSError if the run cannot begin."""
        config = self.config
        with contextlib.ExitStack() as stack:
            show = self._view()
            stack.callback(show.close)
            begin = begin_of(self.identity, self.task, config.lead, self.fit.sentence)
            link = self._link(stack, show, begin)
            with ThreadPoolExecutor(1) as meanwhile:  # connecting and making the mirror both take seconds
                connecting = meanwhile.submit(link.connect)
                mirror = Mirror(self.task, self.fit.senses.state)
                stack.callback(mirror.close)
                inner = self._arm(stack, show)
                connecting.result()
            robot = gated(inner, config.preset)
            ticks = Ticks(self.task.arm.control_hz)
            units = Units(mirror.targets.low, mirror.targets.high)
            lead = min(config.lead, begin.every)
            bodies = (lambda: scene_bodies(inner.scene)) if config.robot == SIM else (lambda: None)
            judged = config.robot == SIM or self.fit.told or bool(config.target)
            loop = Loop(robot, units, mirror, link, ticks, lead, show, bodies, self._eyes(show), judged)
            scheduling = stack.enter_context(hurried(config.real_time))
            connect(robot)
            say(f"{robot}: {self.task.label}, limits={config.preset}, scheduling: {scheduling}")
            ended = self._drive(loop, mirror)
        return self._summary(loop, link, ended) | {"scheduling": scheduling}

    def _drive(self, loop: Loop, mirror: Mirror) -> str:
        """Run all episodes, and shut down whatever ends them. Returns "done", "fault" or the name of a signal."""
        try:
            with contextlib.ExitStack() as stack, no_collection():
                stack.push(loop.robot.__exit__)
                home = loop.read()
                for episode in range(self.config.episodes):
                    if not self._prepare(loop, mirror, episode):
                        return "fault"
                    done = loop.episode(self.seconds)
                    told = {True: "done", False: "not done", None: "over"}[done]
                    loop.show.say(f"episode {episode + 1}: {told}")
                    if loop.robot.fault is not None and not loop.recover():
                        return "fault"
                if self.config.robot != SIM and (why := loop.approach(home)):
                    if loop.robot.fault is not None:
                        return "fault"
                    loop.show.say(f"not quite where it was found: {why}")
                return "done"
        except Stopped as stopped:
            say(in_one_line(stopped))
            return signal.Signals(stopped.number).name
        except (RobotFault, ExceptionGroup) as fault:  # the group: errors of the shutdown
            loop.faults.append(in_one_line(fault))
            say(f"stopped: {loop.faults[-1]}")
            return "fault"

    def _prepare(self, loop: Loop, mirror: Mirror, episode: int) -> bool:
        """Lay out an episode and bring the arm to its starting position. Returns whether it got there."""
        (seed,) = evaluation_seeds(self.config.seed, episode, 1)
        mirror.lay_out(seed)
        robot = loop.robot
        if self.config.robot == SIM:
            robot.rest()
            robot.robot.reset(seed)
            loop.placed(new_gate(robot.robot, self.config.preset))
            return True
        if self.config.target:
            mirror.aim(np.array(self.config.target))
        for _ in range(TRIES):
            if not (why := loop.approach(mirror.start)):
                return True
            if loop.robot.fault is None:
                loop.faults.append(f"not at the episode's beginning: {why}")
                say(f"stopped: {loop.faults[-1]}")
                return False
            if not loop.recover():
                return False
        return False

    def _view(self):
        config = self.config
        if config.viewer == "rerun":
            return Rerun(self.identity.model.token, self.task.arm.control_hz, config.viewer_file)
        if config.viewer == "none":
            return Nothing()
        return View(self.identity.model.token, self.task.arm.control_hz, config.episodes)

    def _arm(self, stack: contextlib.ExitStack, show) -> Robot:
        config = self.config
        if config.robot == SIM:
            cameras = sim_cameras(self.fit.senses.sizes, round(self.task.arm.control_hz))
            return simulated(self.task.name, self.task.arm.control_hz, config.seed, cameras)
        robot = wired(config, stack, config.robot_cameras)
        for name, camera in robot.cameras.items():
            robot.cameras[name] = SteadyCamera(name, camera, show.say)
        stack.enter_context(in_a_line())
        return robot

    def _eyes(self, show) -> Eyes:
        senses, lags = self.fit.senses, self.identity.model.vision.lags
        if not senses.cameras:
            return Eyes()
        return Eyes(senses.sizes, lags, not senses.state, self.task.arm.control_hz, show.say)

    def _link(self, stack: contextlib.ExitStack, show, begin: Begin) -> Link:
        """Return a link to the planner, not yet connected."""
        config = self.config
        if config.remote:
            reach = remote_reach(split_address(config.remote, "remote"))
            link = Link(reach, read_secret(config.secret), begin, show.say)
        else:
            local = LocalPlanner(self.path, config.seed, config.device, config.threads, config.planner)
            stack.callback(local.stop)
            link = Link(local.reach, local.secret, begin, show.say, patience_s=None, again=False)
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
            **loop.smoothness.summary(),
            "planner_losses": link.losses,
            "faults": loop.faults,
            "driver": loop.robot.name,
            "robot": self.config.robot,
            "task": self.task.label,
            "limits": self.config.preset,
            "ended": ended,
        }


def begin_of(identity: AgentSpec, task: TaskConfig, lead: int, sentence: str = "") -> Begin:
    """Return a robot's first message to a checkpoint's planner, asked `lead` control steps before each plan is due.

    The planning deadline is half of that time; the other half is for the round trip and for delays.
    """
    token, cameras = identity.model.token, camera_list(identity.senses)
    every = identity.planner.replan_every or token.length
    return Begin(
        task=task.label,
        state_size=identity.state_size,
        action_size=identity.action_size,
        control=task.arm.control,
        control_hz=task.arm.control_hz,
        every=every,
        length=token.length,
        knots=token.knots,
        degree=token.degree,
        cameras=cameras,
        lags=",".join(map(str, identity.model.vision.lags)) if cameras else "",
        sentence=sentence,
        deadline_ms=500.0 * min(lead, every) / task.arm.control_hz,
    )


def _percentiles(name: str, values: list[float]) -> dict:
    found = [round(float(v), 3) for v in np.percentile(values, [50, 99])] if values else [None, None]
    return {f"{name}_p50": found[0], f"{name}_p99": found[1]}
