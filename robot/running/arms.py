"""The arm that a run is about, by name: simulated, or behind LeRobot's driver."""

from pathlib import Path

from lerobot.robots import Robot

from robot.config_so101_sim import SO101SimConfig
from robot.gate import Gate
from robot.gated import GatedRobot
from robot.limits import so101
from robot.so101_sim import SO101Sim
from sim.tip import Tip


def simulated(task: str, control_hz: float, seed: int) -> Robot:
    """The simulated arm in a task's scene."""
    return SO101Sim(SO101SimConfig(task=task, control_hz=control_hz, seed=seed))


def driven(port: str, name: str, calibration_dir: str) -> Robot:
    """LeRobot's SO-101 at a serial port. Raises ValueError without a calibration, about which LeRobot would ask."""
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig  # noqa: PLC0415

    folder = Path(calibration_dir) if calibration_dir else None
    robot = SO101Follower(SO101FollowerConfig(port=port, id=name, calibration_dir=folder))
    if not robot.calibration:
        raise ValueError(
            f"id={name}: no calibration at {robot.calibration_fpath}; "
            f"lerobot-calibrate --robot.type=so101_follower --robot.port={port} --robot.id={name}"
        )
    return robot


def gated(robot: Robot, preset: str) -> GatedRobot:
    """The arm behind a gate with the limits of a preset. Raises ValueError for a calibration without a range."""
    return GatedRobot(robot, new_gate(robot, preset))


def new_gate(robot: Robot, preset: str) -> Gate:
    """A gate that knows nothing yet of where the arm is."""
    return Gate(so101(preset, robot.calibration or None), Tip())


def connect(robot: GatedRobot) -> None:
    """Connect without asking anything. Raises OSError where nothing answers, ValueError for another calibration."""
    try:
        robot.connect(calibrate=False)
    except RuntimeError as error:
        raise ConnectionError(f"{robot}: {error}") from error
    if not robot.is_calibrated:
        robot.disconnect()
        raise ValueError(
            f"{robot.calibration_fpath}: not the calibration that the arm's servos hold; "
            f"lerobot-calibrate --robot.type=so101_follower --robot.id={robot.id} --robot.port=..."
        )
