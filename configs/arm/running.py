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
from configs.arm.planning import begin_of, planner_client
from configs.arm.priority import hurried
from configs.reporting import say
from configs.runs.learned import task_of
from configs.strict import ConfigError
from envs.mirror import Mirror, scene_bodies
from envs.settings import TaskConfig
from policies.planner_link.client import PlannerClient
from policies.storage.checkpoint import Identity, find_checkpoint, read_identity
from policies.training.rollouts import evaluation_seeds
from robot.arms import connect, gated, simulated
from robot.cameras import CameraBuffer, SteadyCamera, in_a_line
from robot.config_so101_sim import sim_cameras
from robot.loop import Loop, Step
from robot.running.plan_follower import PlanFollower
from robot.running.rerun_view import Rerun
from robot.running.settings import RunConfig
from robot.running.sinks import Nothing, Smoothness, View
from robot.safety.faults import RobotFault, in_one_line
from robot.safety.signals import Stopped
from robot.ticks import Ticks, no_collection, percentiles
from robot.units import Units
from sim.so101.tasks import TASKS

TRIES = 3
"""The run ends after this many faults on the way to an episode's start."""


@dataclass
class Running:
    """One run of the checkpoint at `path`; `task` is what it was trained on."""

    config: RunConfig
    path: Path
    identity: Identity
    task: TaskConfig
    fit: Fit

    @classmethod
    def begin(cls, config: RunConfig) -> "Running":
        """Find the checkpoint and check that it suits the config. Raises ConfigError, FolderError, ValueError."""
        path = find_checkpoint(Path(config.checkpoint))
        identity = read_identity(path)
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
            link = planner_client(stack, config, self.path, begin, show.say)
            with ThreadPoolExecutor(1) as meanwhile:  # connecting and making the mirror both take seconds
                connecting = meanwhile.submit(link.connect)
                mirror = Mirror(self.task, self.fit.senses.state)
                stack.callback(mirror.close)
                inner = self._arm(stack, show)
                connecting.result()
            robot, hz = gated(inner, config.preset), self.task.arm.control_hz
            lead = min(config.lead, begin.every)
            bodies = (lambda: scene_bodies(inner.scene)) if config.simulated else (lambda: None)
            follower = PlanFollower(mirror, link, hz, lead, self._cameras(show), bodies)
            smooth = Smoothness(hz)

            def shown(step: Step) -> None:
                show(step, follower)

            units = Units(mirror.targets.low, mirror.targets.high)
            loop = Loop(robot, units, Ticks(hz), [smooth, shown], show.say)
            scheduling = stack.enter_context(hurried(config.real_time))
            connect(robot)
            say(f"{robot}: {self.task.label}, limits={config.preset}, scheduling: {scheduling}")
            done, ended = self._drive(loop, follower, mirror)
        return self._summary(loop, follower, done, link, ended) | smooth.summary() | {"scheduling": scheduling}

    def _drive(self, loop: Loop, follower: PlanFollower, mirror: Mirror) -> tuple[list[bool | None], str]:
        """Run all episodes, and shut down whatever ends them.

        Returns whether each was done, and "done", "fault" or the name of a signal.
        """
        judged = self.config.simulated or self.fit.told or bool(self.config.target)
        steps, judge = round(self.seconds * loop.ticks.hz) + 1, mirror.success if judged else None  # 1: to see the last
        results: list[bool | None] = []
        try:
            with contextlib.ExitStack() as stack, no_collection():
                stack.push(loop.robot.__exit__)
                home = loop.read().joints
                for episode in range(self.config.episodes):
                    if not self._prepare(loop, follower, mirror, episode):
                        return results, "fault"
                    results.append(loop.episode(follower, steps, judge))
                    told = {True: "done", False: "not done", None: "over"}[results[-1]]
                    loop.say(f"episode {episode + 1}: {told}")
                    if loop.robot.fault is not None and not loop.recover(follower):
                        return results, "fault"
                if not self.config.simulated and (why := loop.move_to(home)):
                    if loop.robot.fault is not None:
                        return results, "fault"
                    loop.say(f"not quite where it was found: {why}")
                return results, "done"
        except Stopped as stopped:
            say(in_one_line(stopped))
            return results, signal.Signals(stopped.number).name
        except (RobotFault, ExceptionGroup) as fault:  # the group: errors of the shutdown
            loop.faults.append(in_one_line(fault))
            say(f"stopped: {loop.faults[-1]}")
            return results, "fault"

    def _prepare(self, loop: Loop, follower: PlanFollower, mirror: Mirror, episode: int) -> bool:
        """Lay out an episode and bring the arm to its starting position. Returns whether it got there."""
        (seed,) = evaluation_seeds(self.config.seed, episode, 1)
        mirror.lay_out(seed)
        follower.begin(seed)
        if self.config.simulated:
            loop.rest()
            loop.robot.robot.reset(seed)
            loop.moved()
            return True
        if self.config.target:
            mirror.aim(np.array(self.config.target))
        for _ in range(TRIES):
            if not (why := loop.move_to(mirror.start)):
                return True
            if loop.robot.fault is None:
                loop.faults.append(f"not at the episode's beginning: {why}")
                say(f"stopped: {loop.faults[-1]}")
                return False
            if not loop.recover(follower):
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
        if config.simulated:
            cameras = sim_cameras(self.fit.senses.sizes, round(self.task.arm.control_hz))
            return simulated(self.task.name, self.task.arm.control_hz, config.seed, cameras)
        robot = wired(config, stack, config.robot_cameras)
        for name, camera in robot.cameras.items():
            robot.cameras[name] = SteadyCamera(name, camera, show.say)
        stack.enter_context(in_a_line())
        return robot

    def _cameras(self, show) -> CameraBuffer:
        senses, lags = self.fit.senses, self.identity.model.vision.lags
        if not senses.cameras:
            return CameraBuffer()
        return CameraBuffer(senses.sizes, lags, not senses.state, self.task.arm.control_hz, show.say)

    def _summary(
        self, loop: Loop, follower: PlanFollower, results: list[bool | None], link: PlannerClient, ended: str
    ) -> dict[str, object]:
        plans, known = follower.plans, [done for done in results if done is not None]
        (plan_p50, plan_p99), (round_p50, round_p99) = (
            percentiles(times, 50, 99) for times in (plans.plan_ms, plans.round_ms)
        )
        return {
            "success_rate": float(np.mean(known)) if known else None,
            "episodes": len(results),
            "control_hz": loop.ticks.mean_hz,
            "missed_deadlines": plans.late,
            "plans": plans.count,
            **{"plan_ms_p50": plan_p50, "plan_ms_p99": plan_p99, "round_ms_p50": round_p50, "round_ms_p99": round_p99},
            **loop.ticks.summary(),
            "planner_losses": link.losses,
            "faults": loop.faults,
            "driver": loop.robot.name,
            "robot": self.config.robot,
            "task": self.task.label,
            "limits": self.config.preset,
            "ended": ended,
        }
