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


def main() -> None:
    """Print a line for each episode on stderr, and one for all."""
    run, name, *count = [each for each in sys.argv[1:] if "=" not in each]
    registers = dict(each.split("=") for each in sys.argv[1:] if "=" in each)
    path, folder = find_checkpoint(Path(run)), Path(tempfile.mkdtemp())
    task = renamed(task_of(read_spec(path)), name)
    options = RunConfig(checkpoint=str(path), planner=registers.pop("planner", "true") == "true")
    hz, estimator = task.arm.control_hz, StateEstimator(task)
    scene = so101.build(name, hz, end_on_success=False)
    arm = twin_in(scene, folder)
    line, free = Line(arm), [arm.model.body(body).name for body in arm.model.jnt_bodyid[len(JOINTS) :]]
    serial.Serial = lambda **_: line
    robot, seen = gated(driven("line", "twin", str(folder)), options.preset, clock=line), list[bool]()
    units = Units(estimator.targets.low, estimator.targets.high)
    loop = Loop(robot, units, Ticks(hz, line), [lambda step: seen.append(step.success)], print)
    follower = PlanFollower(estimator, planner_of(planner_service(options)), hz, 1, bodies=lambda: bodies_of(arm))
    connect(robot)
    for servo in arm.servos.values():
        for register, value in registers.items():
            servo[register] = int(value)
    print(*(f"{register}={servo[register]}" for register in ("Acceleration", "P_Coefficient")))
    steps, ever, ended = round(TASKS[name].seconds * hz), list[bool](), list[bool]()
    for episode in range(int(*count or (20,))):
        (seed,) = evaluation_seeds(options.seed, episode, 1)
        estimator.lay_out(seed)
        follower.begin(seed)
        scene.reset(seed=seed)
        loop.rest()
        places = np.split(scene.data.qpos[len(JOINTS) :], len(free)) if free else []
        arm.reset(dict(zip(JOINTS, estimator.start, strict=True)), dict(zip(free, places, strict=True)))
        for servo in arm.servos.values():  # a gripper that held something protects itself until its torque is switched
            servo.write(TORQUE, b"\0")
            servo.write(TORQUE, b"\1")
        loop.moved()
        seen.clear()
        loop.episode(follower, steps + 1, estimator.success)
        ever.append(any(seen))
        ended.append(len(seen) > steps and all(seen[-round(END_S * hz) :]))
        if robot.fault is not None and not loop.recover(follower):
            break
    found = {"success": sum(ever), "at_end": sum(ended), "episodes": len(ever), "faults": loop.faults}
    print(json.dumps(found | {"late_plans": follower.plans.late, "late_ticks": loop.ticks.late}))


def bodies_of(arm: TwinArm) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and velocities of what lies free in the twin's scene."""
    return arm.data.qpos[len(JOINTS) :].copy(), arm.data.qvel[len(JOINTS) :].copy()


if __name__ == "__main__":
    main()
