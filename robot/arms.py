"""The arm that a command is about: simulated, or behind LeRobot's driver; then behind the gate, then connected."""

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
from sim.so101.fingertip import Fingertip
from worldmodel.mistakes import Mistake


def simulated(task: str, control_hz: float, seed: int = 0, cameras: Mapping[str, SimCameraConfig] | None = None):
    """The simulated arm in a task's scene."""
    return SO101Sim(SO101SimConfig(task=task, control_hz=control_hz, seed=seed, cameras=dict(cameras or {})))


class StayingBus(FeetechMotorsBus):
    """Motors that go stiff where they are, not at the goal that they had when they were let go; nobody else's."""

    def connect(self, handshake: bool = True) -> None:
        """Connect. Raises ConnectionError where another program has the port: two at one wire garble each other."""
        if not self.is_connected:
            self._ask()
        super().connect(handshake)
        try:
            self._claim(self.port_handler.ser.fileno())  # until it is closed
        except ConnectionError:
            self.port_handler.closePort()  # the other program's arm is not to be let go of
            raise

    def _ask(self) -> None:
        """Whether the port is free, before the driver sets it up, which another program would feel."""
        try:
            port = os.open(self.port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return  # the driver says what is wrong with a port that is none
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
        """Give each of the motors its place as its goal, and then torque."""
        for motor in self._get_motors_list(motors):
            place = self.read("Present_Position", motor, normalize=False, num_retry=num_retry)
            self.write("Goal_Position", motor, place, normalize=False, num_retry=num_retry)
            super().enable_torque(motor, num_retry)


class SO101(SO101Follower):
    """LeRobot's SO-101; it goes stiff only where it is, and only if it is the arm that the calibration is of."""

    def __init__(self, config: SO101FollowerConfig):
        super().__init__(config)
        self.bus = StayingBus(config.port, self.bus.motors, self.calibration)

    def connect(self, calibrate: bool = True) -> None:
        """Connect. Whatever `calibrate` is, it asks for no new calibration: the gate's limits are made of this one."""
        super().connect(calibrate=False)

    def configure(self) -> None:
        """Set up the servos, then switch their torque on. Raises ValueError where they hold another calibration."""
        if not self.is_calibrated:
            raise Mistake(
                f"{self.calibration_fpath}: not the calibration that the arm's servos hold; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.id={self.id} --robot.port={self.config.port}"
            )
        super().configure()


def driven(port: str, name: str, calibration_dir: str = "", cameras: Mapping[str, dict] | None = None) -> Robot:
    """LeRobot's SO-101 at a serial port; `cameras` by name, with LeRobot's keys.

    Raises ValueError without a calibration, about which LeRobot would ask, or for a camera that cannot be.
    """
    folder = Path(calibration_dir) if calibration_dir else None
    try:
        seen = configured(cameras or {})
        config = SO101FollowerConfig(port=port, id=name, calibration_dir=folder, cameras=seen)
        robot = SO101(config)
    except ImportError as error:  # of what a kind of camera needs
        raise Mistake(f"robot_cameras: {' '.join(str(error).split())}") from error
    except Mistake:
        raise
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:  # of what is no calibration
        raise Mistake(f"id={name}: {' '.join(str(error).split())}") from error
    if not robot.calibration:
        raise Mistake(
            f"id={name}: no calibration at {robot.calibration_fpath}; "
            f"lerobot-calibrate --robot.type=so101_follower --robot.port={port} --robot.id={name}"
        )
    return robot


def twin(port_file: Path, cameras: Mapping[str, dict] | None = None) -> Robot:
    """The same driver, at the port of a twin that runs. Raises ValueError where none does."""
    return driven(port_of_twin(port_file), "twin", str(port_file.parent), cameras)


def gated(robot: Robot, preset: str, stop_on_fault: bool = False, clock=time) -> GatedRobot:
    """The arm behind a gate with the limits of a preset. Raises ValueError for a calibration without a range."""
    return GatedRobot(robot, new_gate(robot, preset), stop_on_fault, clock)


def new_gate(robot: Robot, preset: str) -> Gate:
    """A gate that knows nothing yet of where the arm is."""
    return Gate(so101(preset, robot.calibration or None), Fingertip())


def connect(robot: GatedRobot) -> None:
    """Connect without asking anything; one that fails is let go again.

    Raises OSError where nothing answers, ValueError for another calibration.
    """
    try:
        robot.connect(calibrate=False)
    except RuntimeError as error:
        raise ConnectionError(f"{robot}: {error}") from error
