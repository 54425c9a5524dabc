"""The arm behind a serial port that a command's keys name: a real one, a running twin, or a twin started for it."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from lerobot.robots import Robot

from configs.arm.twin_process import TwinProcess
from robot.arm_options import REAL, ArmConfig
from robot.arms import driven, twin


def wired(config: ArmConfig, stack: ExitStack, cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return LeRobot's driver for the arm, not yet connected.

    If a twin had to be started, closing `stack` stops it. Raises ValueError, OSError.
    """
    if config.robot == REAL:
        return driven(config.port, config.id, config.calibration_dir, cameras)
    if config.port_file:
        return twin(Path(config.port_file), cameras)
    process = TwinProcess()
    stack.callback(process.stop)
    return twin(process.port_file, cameras)
