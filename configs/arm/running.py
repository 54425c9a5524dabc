"""A run of a checkpoint on an arm: its planner, its cameras, its view and its episodes."""

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.arm.compatibility import Fit
from configs.arm.planning import begin_of, planner_client
from configs.arm.priority import hurried
from configs.arm.session import ENDS, arm_of
from configs.reporting import say
from configs.runs.loading import task_of
from envs.settings import TaskConfig
from envs.state_estimator import Mirror, scene_bodies
from policies.storage.checkpoint import AgentSpec, find_checkpoint, read_spec
from policies.training.rollouts import evaluation_seeds
from robot.arms import connect, gated
from robot.cameras import CameraBuffer, SteadyCamera, in_a_line
from robot.loop import Loop
from robot.running.plan_follower import PlanFollower
from robot.running.rerun_view import Rerun
from robot.running.settings import RunConfig
from robot.running.sinks import Nothing, Smoothness, View
from robot.safety.faults import in_one_line
from robot.safety.signals import Stopped
from robot.ticks import Ticks, no_collection
from robot.units import Units
from sim.so101.tasks import TASKS
from worldmodel.strict import ConfigError

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
        config, hz, senses = self.config, self.task.arm.control_hz, self.fit.senses
        with contextlib.ExitStack() as stack:
            show = self._view()
            stack.callback(show.close)
            begin = begin_of(self.identity, self.task, config.lead, self.fit.sentence)
            link = planner_client(stack, config, self.path, begin, show.say)
            with ThreadPoolExecutor(1) as meanwhile:  # connecting and making the mirror both take seconds
                connecting = meanwhile.submit(link.connect)
                mirror = Mirror(self.task, senses.state)
                stack.callback(mirror.close)
                inner = arm_of(config, stack, self.task.name, hz, senses.sizes, config.seed)
                if not config.simulated:
                    inner.cameras |= {name: SteadyCamera(name, each, show.say) for name, each in inner.cameras.items()}
                    stack.enter_context(in_a_line())
                connecting.result()
            robot = gated(inner, config.preset)
            eyes = CameraBuffer(senses.sizes, self.identity.model.vision.frame_lags, not senses.state, hz, show.say)
            bodies = (lambda: scene_bodies(inner.scene)) if config.simulated else (lambda: None)
            follower = PlanFollower(mirror, link, hz, min(config.lead, begin.every), eyes, bodies)
            smooth = Smoothness(hz)
            units = Units(mirror.targets.low, mirror.targets.high)
            loop = Loop(robot, units, Ticks(hz), [smooth, lambda step: show(step, follower)], show.say)
            scheduling = stack.enter_context(hurried(config.real_time))
            connect(robot)
            say(f"{robot}: {self.task.label}, limits={config.preset}, scheduling: {scheduling}")
            results: list[bool | None] = []
            end = self._drive(loop, follower, mirror, results)
        known = [done for done in results if done is not None]
        return {
            "success_rate": float(np.mean(known)) if known else None,
            "episodes": len(results),
            "control_hz": loop.ticks.mean_hz,
            **follower.plans.summary(),
            **loop.ticks.summary(),
            "planner_losses": link.losses,
            "faults": loop.faults,
            "driver": loop.robot.name,
            "robot": config.robot,
            "task": self.task.label,
            "limits": config.preset,
            "ended": end,
            **smooth.summary(),
            "scheduling": scheduling,
        }

    def _drive(self, loop: Loop, follower: PlanFollower, mirror: Mirror, results: list[bool | None]) -> str:
        """Run all episodes, and shut down whatever ends them; `results` gets whether each was done.

        Returns "done", "fault" or the name of a signal.
        """
        judged = self.config.simulated or self.fit.told or bool(self.config.target)
        steps, judge = round(self.seconds * loop.ticks.hz) + 1, mirror.success if judged else None  # 1: to see the last
        try:
            with contextlib.ExitStack() as stack, no_collection():
                stack.push(loop.robot)
                home = loop.read().joints
                for episode in range(self.config.episodes):
                    if not self._prepare(loop, follower, mirror, episode):
                        return "fault"
                    results.append(loop.episode(follower, steps, judge))
                    told = {True: "done", False: "not done", None: "over"}[results[-1]]
                    loop.say(f"episode {episode + 1}: {told}")
                    if loop.robot.fault is not None and not loop.recover(follower):
                        return "fault"
                if not self.config.simulated and (why := loop.move_to(home)):
                    if loop.robot.fault is not None:
                        return "fault"
                    loop.say(f"not quite where it was found: {why}")
                return "done"
        except ENDS as end:
            line = in_one_line(end)
            if isinstance(end, Stopped):
                say(line)
                return signal.Signals(end.number).name
            loop.faults.append(line)
            say(f"stopped: {line}")
            return "fault"

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

    def _view(self) -> Nothing:
        config, token, hz = self.config, self.identity.model.token, self.task.arm.control_hz
        if config.viewer == "rerun":
            return Rerun(token, hz, config.viewer_file)
        return Nothing() if config.viewer == "none" else View(token, hz, config.episodes)
