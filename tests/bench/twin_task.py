"""How often an agent succeeds on the twin: `python tests/bench/twin_task.py <run> <task> [episodes] [Acceleration=0]`.

LeRobot's driver sends to the twin's servos in their protocol, behind the gate, in lockstep: simulated time passes only
where the loop waits, and no plan comes late. The twin has the task's scene and tells where its things are, which an arm
cannot. Episodes are laid out as semagram-run's. A register is set instead of what LeRobot set; `planner=false`: by the
policy alone.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import serial

from configs.arm.planning import planner_service
from configs.runs.loading import renamed, task_of
from envs.state_estimator import StateEstimator
from policies.planner_link.messages import Question
from policies.planner_link.service import PlannerService
from policies.storage.checkpoint import find_checkpoint, read_spec
from policies.training.rollouts import evaluation_seeds
from robot.arms import connect, driven, gated
from robot.drivers import PlanFollower
from robot.loop import Loop
from robot.settings import RunConfig
from robot.ticks import Ticks
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS, Units
from sim.so101.kinematics import arm_file
from sim.so101.tasks import TASKS
from sim.twin.arm import TwinArm, build, calibration_text, fitting, limits
from sim.twin.servo import REGISTERS, Bus, Framer

END_S = 0.5
TORQUE = REGISTERS["Torque_Enable"][0]


class Line:
    """What serial.Serial gives, with servos at its end that answer at once; and a clock on which they live."""

    def __init__(self, arm: TwinArm):
        self.arm, self.now, self._bus, self._framer = arm, 0.0, Bus(arm.servos.values()), Framer()
        self._answers, self._device, self._steps = bytearray(), os.memfd_create("line"), 0
        self.fileno, self.flush = lambda: self._device, lambda: None
        self.reset_input_buffer = self.close = self._answers.clear

    @property
    def in_waiting(self) -> int:
        """Bytes that wait to be read."""
        return len(self._answers)

    def write(self, data: bytes) -> int:
        """Send packets."""
        for packet in self._framer.feed(bytes(data), 0.0):
            self._answers.extend(b"".join(self._bus.answer(packet)))
        return len(data)

    def read(self, count: int) -> bytes:
        """Return what was answered."""
        data = bytes(self._answers[:count])
        del self._answers[:count]
        return data

    def monotonic(self) -> float:
        """Return the time, 0.1 ms of which a look takes."""
        self.sleep(1e-4)
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the arm move for so long."""
        self.now += seconds
        while (self._steps + 1) * self.arm.dt_s <= self.now:
            self.arm.step()
            self._steps += 1


def twin_in(scene: so101.VariedArm, folder: Path) -> TwinArm:
    """Return the twin in a task's scene, its calibration in `folder`."""
    path = folder / "scene.xml"
    mujoco.mj_saveLastXML(str(path), scene.model)
    path.write_text(path.read_text().replace('meshdir="assets"', f'meshdir="{arm_file().parent / "assets"}"'))
    model = build(path)
    calibration = fitting(limits(model))
    (folder / "twin.json").write_text(calibration_text(calibration))
    return TwinArm(model, calibration)


def planner_of(service: PlannerService) -> SimpleNamespace:
    """Return a planner in this process, whose answer is there at the next control step."""
    held = []

    def ask(state, fresh, frames=(), present=(), *more) -> bool:
        held.append(service.answer(Question(1, fresh, state, tuple(frames), np.asarray(present, bool), *more)))
        return True

    return SimpleNamespace(ask=ask, poll=lambda: held.pop() if held else None, waiting=False, gone=lambda: "")


class Rehearsal:
    """A run's agent on the twin in the scene of `task`. `registers`: what its servos are set to, besides LeRobot's."""

    def __init__(self, run: str, name: str, registers: dict[str, str]):
        path, folder = find_checkpoint(Path(run)), Path(tempfile.mkdtemp())
        task = renamed(task_of(read_spec(path)), name)
        self.options = RunConfig(checkpoint=str(path), planner=registers.pop("planner", "true") == "true")
        hz, self.estimator = task.arm.control_hz, StateEstimator(task)
        self.scene = so101.build(name, hz, end_on_success=False)
        self.arm = twin_in(self.scene, folder)
        self.free = [self.arm.model.body(body).name for body in self.arm.model.jnt_bodyid[len(JOINTS) :]]
        line = Line(self.arm)
        serial.Serial = lambda **_: line
        self.robot, self.seen = (
            gated(driven("line", "twin", str(folder)), self.options.preset, clock=line),
            list[bool](),
        )
        units = Units(self.estimator.targets.low, self.estimator.targets.high)
        self.loop = Loop(self.robot, units, Ticks(hz, line), [lambda step: self.seen.append(step.success)], print)
        self.service = planner_service(self.options)
        bodies = lambda: bodies_of(self.arm)  # noqa: E731
        self.follower = PlanFollower(self.estimator, planner_of(self.service), hz, 1, bodies=bodies)
        connect(self.robot)
        for servo in self.arm.servos.values():
            for register, value in registers.items():
                servo[register] = int(value)
        print(*(f"{register}={servo[register]}" for register in ("Acceleration", "P_Coefficient")))
        self.hz = hz

    def play(self, seed: int, seconds: float) -> list[bool]:
        """Play the episode of a seed for so long; return at each step whether the task was done, if all were played."""
        steps = round(seconds * self.hz)
        self.estimator.lay_out(seed)
        self.follower.begin(seed)
        self.scene.reset(seed=seed)
        self.loop.rest()
        places = np.split(self.scene.data.qpos[len(JOINTS) :], len(self.free)) if self.free else []
        start = dict(zip(JOINTS, self.estimator.start, strict=True))
        self.arm.reset(start, dict(zip(self.free, places, strict=True)))
        for servo in self.arm.servos.values():  # a gripper that held something protects itself till its torque switches
            servo.write(TORQUE, b"\0")
            servo.write(TORQUE, b"\1")
        self.loop.moved()
        self.seen.clear()
        self.loop.episode(self.follower, steps + 1, self.estimator.success)
        return self.seen if len(self.seen) > steps else []

    @property
    def lost(self) -> bool:
        """Whether a fault ended it for good."""
        return self.robot.fault is not None and not self.loop.recover(self.follower)


def main() -> None:
    """Print a line for each episode on stderr, and one for all."""
    run, name, *count = [each for each in sys.argv[1:] if "=" not in each]
    twin = Rehearsal(run, name, dict(each.split("=") for each in sys.argv[1:] if "=" in each))
    ever, ended = list[bool](), list[bool]()
    for seed in evaluation_seeds(twin.options.seed, 0, int(*count or (20,))):
        played = twin.play(seed, TASKS[name].seconds)
        ever.append(any(twin.seen))
        ended.append(bool(played) and all(played[-round(END_S * twin.hz) :]))
        if twin.lost:
            break
    found = {"success": sum(ever), "at_end": sum(ended), "episodes": len(ever), "faults": twin.loop.faults}
    print(json.dumps(found | {"late_plans": twin.follower.plans.late, "late_ticks": twin.loop.ticks.late}))


def bodies_of(arm: TwinArm) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and velocities of what lies free in the twin's scene."""
    return arm.data.qpos[len(JOINTS) :].copy(), arm.data.qvel[len(JOINTS) :].copy()


if __name__ == "__main__":
    main()
