"""What all sessions on an arm share: which arm their keys name, how it gets home, and how they end."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from lerobot.robots import Robot

from configs.arm.twin_process import served
from configs.reporting import FAILED, SIGNALLED, Ended
from robot.arms import driven, twin
from robot.config_so101 import SO101SimConfig, sim_cameras
from robot.drivers import DriverLost
from robot.loop import Loop
from robot.safety.stops import RobotFault, Stopped
from robot.settings import REAL, ArmConfig
from robot.so101 import SO101Sim
from worldmodel.errors import in_one_line

ENDS = (RobotFault, DriverLost, Stopped, ExceptionGroup)  # what ends a session early; the group: errors of the shutdown


def arm_of(
    config: ArmConfig, stack: ExitStack, task: str, hz: float, sizes: Mapping[str, tuple[int, int]], seed: int = 0
) -> Robot:
    """Return the arm, not connected; closing `stack` stops a twin started for it. Raises ValueError, OSError."""
    if config.simulated:
        own = dict(sim_cameras(sizes, round(hz)))
        return SO101Sim(SO101SimConfig(task=task, control_hz=float(hz), seed=seed, cameras=own))
    cameras = getattr(config, "robot_cameras", {})
    if config.robot == REAL:
        return driven(config.port, config.id, config.calibration_dir, cameras)
    port_file = Path(config.port_file) if config.port_file else stack.enter_context(served())
    return twin(port_file, cameras)


def return_home(loop: Loop, home: np.ndarray) -> bool:
    """Take a real arm back to where it was found, `home` (6,) in rad. Returns whether no fault prevented it."""
    why = loop.move_to(home)
    if loop.robot.fault is not None:
        return False
    if why:
        loop.say(f"not quite where it was found: {why}")
    return True


def ended(end: BaseException, more: str = "") -> Ended:
    """Return how a command ends that one of ENDS has ended: its line, with `more` behind it, and its exit code."""
    return Ended(in_one_line(end) + more, SIGNALLED + end.number if isinstance(end, Stopped) else FAILED)
