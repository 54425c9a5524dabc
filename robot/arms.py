"""Construct the arm that a command is about: simulated or behind LeRobot's driver; then gate it and connect it."""

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

import draccus
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.robots import Robot
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from robot.camera_kinds import configured
from robot.config_sim_camera import SimCameraConfig
from robot.config_so101_sim import SO101SimConfig
from robot.ports import port_of_twin
from robot.safety.gate import Gate
from robot.safety.gated import GatedRobot
from robot.safety.limits import so101
from robot.so101_sim import SO101Sim
from robot.ticks import Clock
from sim.so101.fingertip import Fingertip
from worldmodel.mistakes import Mistake


def simulated(task: str, control_hz: float, seed: int = 0, cameras: Mapping[str, SimCameraConfig] | None = None):
    """Return the simulated arm in a task's scene."""
    return SO101Sim(SO101SimConfig(task=task, control_hz=control_hz, seed=seed, cameras=dict(cameras or {})))


class StayingBus(FeetechMotorsBus):
    """A motors bus with exclusive use of its port, on which motors stiffen where they are, not at an old goal."""

    def connect(self, handshake: bool = True) -> None:
        """Connect.

        Raises ConnectionError if another program has the port: two on one line garble each other's packets.
        """
        if not self.is_connected:
            self._ask()
        super().connect(handshake)
        try:
            self._claim(self.port_handler.ser.fileno())  # held until the port is closed
        except ConnectionError:
            self.port_handler.closePort()  # not `disconnect`, which would release the other program's arm
            raise

    def _ask(self) -> None:
        """Raise ConnectionError if the port is taken, before the driver sets it up, which would disturb its user."""
        try:
            port = os.open(self.port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return  # the driver reports what is wrong with the port
        try:
            self._claim(port)
        finally:
            os.close(port)

    def _claim(self, port: int) -> None:
        try:
            fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConnectionError(f"{self.port}: another program moves the arm at this port; end it first") from error

    def enable_torque(self, motors: str | list[str] | None = None, num_retry: int = 0) -> None:
        """Set each motor's goal to its present position, then enable its torque."""
        for motor in self._get_motors_list(motors):
            place = self.read("Present_Position", motor, normalize=False, num_retry=num_retry)
            self.write("Goal_Position", motor, place, normalize=False, num_retry=num_retry)
            super().enable_torque(motor, num_retry)


class SO101(SO101Follower):
    """LeRobot's SO-101, which stiffens only where it is, and only if its servos hold the configured calibration."""

    bus: StayingBus

    def __init__(self, config: SO101FollowerConfig):
        super().__init__(config)
        self.bus = StayingBus(config.port, self.bus.motors, self.calibration)

    def connect(self, calibrate: bool = True) -> None:
        """Connect. Never calibrates, whatever `calibrate` is: the gate's limits derive from the present calibration."""
        super().connect(calibrate=False)

    def configure(self) -> None:
        """Set up the servos, then enable their torque. Raises ValueError if they hold another calibration."""
        if not self.is_calibrated:
            raise Mistake(
                f"{self.calibration_fpath}: not the calibration that the arm's servos hold; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.id={self.id} --robot.port={self.config.port}"
            )
        super().configure()


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
    if not robot.calibration:
        raise Mistake(
            f"id={name}: no calibration at {robot.calibration_fpath}; "
            f"lerobot-calibrate --robot.type=so101_follower --robot.port={port} --robot.id={name}"
        )
    return robot


def twin(port_file: Path, cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return the same driver at the port of a running twin. Raises ValueError if none is running."""
    return driven(port_of_twin(port_file), "twin", str(port_file.parent), cameras)


def gated(robot: Robot, preset: str, stop_on_fault: bool = False, clock: Clock = time) -> GatedRobot:
    """Return the arm behind a gate with a preset's limits. Raises ValueError for a calibration without a range."""
    return GatedRobot(robot, new_gate(robot, preset), stop_on_fault, clock)


def new_gate(robot: Robot, preset: str) -> Gate:
    """Return a gate that does not know yet where the arm is."""
    return Gate(so101(preset, robot.calibration or None), Fingertip())


def connect(robot: GatedRobot) -> None:
    """Connect without prompting; if that fails, the arm is released again.

    Raises OSError if nothing answers, ValueError if the servos hold another calibration.
    """
    try:
        robot.connect(calibrate=False)
    except RuntimeError as error:
        raise ConnectionError(f"{robot}: {error}") from error
