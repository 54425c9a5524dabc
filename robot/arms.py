"""Construct the arm that a command is about: simulated or behind LeRobot's driver; then gate it and connect it."""

import time
from collections.abc import Mapping
from pathlib import Path

import draccus
from lerobot.robots import Robot
from lerobot.robots.so_follower import SO101FollowerConfig

from robot.config_sim_camera import SimCameraConfig
from robot.config_so101_sim import SO101SimConfig
from robot.lerobot_types import configured
from robot.ports import port_of_twin
from robot.safety.gate import Gate
from robot.safety.gated import GatedRobot
from robot.safety.limits import so101
from robot.so101 import SO101, check_calibrated
from robot.so101_sim import SO101Sim
from robot.ticks import Clock
from sim.so101.fingertip import Fingertip
from worldmodel.mistakes import Mistake


def simulated(task: str, control_hz: float, seed: int = 0, cameras: Mapping[str, SimCameraConfig] | None = None):
    """Return the simulated arm in a task's scene."""
    return SO101Sim(SO101SimConfig(task=task, control_hz=control_hz, seed=seed, cameras=dict(cameras or {})))


def driven(port: str, name: str, calibration_dir: str = "", cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return LeRobot's SO-101 at a serial port; `cameras`: LeRobot's camera options by name.

    Raises ValueError without a calibration, for which LeRobot would prompt, or for an invalid camera.
    """
    folder = Path(calibration_dir) if calibration_dir else None
    try:
        seen = configured(cameras or {})
        config = SO101FollowerConfig(port=port, id=name, calibration_dir=folder, cameras=seen)
        robot = SO101(config)
    except ImportError as error:  # a camera type's dependency is not installed
        raise Mistake(f"robot_cameras: {' '.join(str(error).split())}") from error
    except Mistake:
        raise
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:  # from an invalid calibration file
        raise Mistake(f"id={name}: {' '.join(str(error).split())}") from error
    check_calibrated(robot)
    return robot


def twin(port_file: Path, cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return the same driver at the port of a running twin. Raises ValueError if none is running."""
    return driven(port_of_twin(port_file), "twin", str(port_file.parent), cameras)


def gated(robot: Robot, preset: str, stop_on_fault: bool = False, clock: Clock = time) -> GatedRobot:
    """Return the arm behind a gate with a preset's limits. Raises ValueError for a calibration without a range."""
    gate = Gate(so101(preset, robot.calibration or None), Fingertip())
    return GatedRobot(robot, gate, stop_on_fault, clock)


def connect(robot: GatedRobot) -> None:
    """Connect without prompting; if that fails, the arm is released again.

    Raises OSError if nothing answers, ValueError if the servos hold another calibration.
    """
    try:
        robot.connect(calibrate=False)
    except RuntimeError as error:
        raise ConnectionError(f"{robot}: {error}") from error
