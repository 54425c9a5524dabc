"""LeRobot's SO-101 that moves only where it is sent: alone, and behind the safety gate as a robot type of its own."""

import logging
import os
import time

import numpy as np
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from policies.storage.folders import claimed
from robot.config_so101 import SemagramSO101Config
from robot.safety.faults import FaultKind, RobotFault
from robot.safety.gate import Gate
from robot.safety.gated import GatedRobot, noted
from robot.ticks import Clock
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)


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
        if not claimed(port):
            raise ConnectionError(f"{self.port}: another program moves the arm at this port; end it first")

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
        """Read the calibration. Raises ValueError if there is no file with one: LeRobot would prompt for it."""
        super().__init__(config)
        if not self.calibration:
            raise UserError(
                f"id={self.id}: no calibration at {self.calibration_fpath}; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.port={config.port} --robot.id={self.id}"
            )
        self.bus = StayingBus(config.port, self.bus.motors, self.calibration)

    def connect(self, calibrate: bool = True) -> None:
        """Connect. Never calibrates, whatever `calibrate` is: the gate's limits derive from the present calibration."""
        super().connect(calibrate=False)

    def configure(self) -> None:
        """Set up the servos, then enable their torque. Raises ValueError if they hold another calibration."""
        if not self.is_calibrated:
            raise UserError(
                f"{self.calibration_fpath}: not the calibration that the arm's servos hold; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.id={self.id} --robot.port={self.config.port}"
            )
        super().configure()


class SemagramSO101(GatedRobot):
    """The gated arm for loops that know nothing of gates: LeRobot's own commands (`--robot.type=semagram_so101`).

    A fault brakes the arm to rest and raises RobotFault. These loops pause without notice, to save an episode or to
    compute an action; the servos hold their last goal then. After more than the limits' `loop_s`, the arm goes on from
    rest where it is, as after `rest`, and a warning is logged.
    """

    config_class = SemagramSO101Config

    def __init__(self, config: SemagramSO101Config, clock: Clock = time):
        """Read the calibration. Raises ValueError without one, or for settings that the gate does not allow."""
        arm = SO101(config)
        super().__init__(arm, Gate(config.limits_of(arm.calibration), Fingertip()), True, clock)
        self._moved_at = clock.monotonic()

    def get_observation(self) -> dict:
        """Return the arm's observation; see GatedRobot."""
        self._resume()
        return super().get_observation()

    def send_action(self, action: dict | np.ndarray, at: float | None = None) -> dict:
        """Send as much of the action as the gate lets through; see GatedRobot."""
        with self.held():
            self._resume()
            sent = super().send_action(action, at)
            self._moved_at = self._time.monotonic()
            return sent

    def disconnect(self) -> None:
        """Shut down; see GatedRobot. After a fault, the errors met are notes on it: the loop has raised it already."""
        try:
            super().disconnect()
        except ExceptionGroup as errors:
            if self.fault is None or self.fault.kind is FaultKind.STOP:
                raise
            raise noted(RobotFault(self.fault), list(errors.exceptions)) from errors

    def _resume(self) -> None:
        """Start anew where the arm is if the last command is too long ago."""
        now = self._time.monotonic()
        paused_s = now - self._moved_at
        if paused_s <= self.gate.limits.loop_s or self.fault is not None:
            return
        if self.command is not None:
            logger.warning("%s: no command for %.2f s; it goes on from rest, where it is", self, paused_s)
        self.forget()
        self._moved_at = now
