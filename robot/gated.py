"""A LeRobot robot behind the safety gate: the same class of thing, features and calls, but no other way to its motors.

Shutting down always goes in one order, whatever ended the loop (the end of the work, an exception, a signal, a pulled
cable): brake, release each motor, close the port, close the data. No step is skipped because another failed, and the
errors are reported together.
"""

import atexit
import logging
import time
from collections.abc import Callable

from lerobot.robots import Robot

from robot import shutdown
from robot.faults import Fault, FaultKind, RobotFault
from robot.gate import Command, Gate
from robot.signals import StopSignals
from robot.watch import Timed

SUFFIX = ".pos"
BRAKE_PERIOD_S = 0.01
GIVE_UP = 3
"""Braking commands that fail in a row, after which the cable is taken to be pulled."""

logger = logging.getLogger(__name__)


class GatedRobot(Robot):
    """Any LeRobot robot commanded by joint positions, with a gate for its limits.

    A fault of the driver raises RobotFault once the robot has been braked as far as it still listens. Any other fault
    is logged and latched: `send_action` then brakes, holds, and returns what it sent, until `release`; with
    `stop_on_fault`, for loops that know nothing of gates (LeRobot's own), it brakes to rest and raises RobotFault too.
    """

    def __init__(self, robot: Robot, gate: Gate, stop_on_fault: bool = False, clock: Callable[[], float] | None = None):
        names = [key.removesuffix(SUFFIX) for key in robot.action_features if key.endswith(SUFFIX)]
        others = [key for key in robot.action_features if not key.endswith(SUFFIX)]
        if others or set(names) != set(gate.limits.names):
            raise ValueError(
                f"{robot.name}: is commanded by {', '.join(robot.action_features)}; "
                f"the limits are for {', '.join(name + SUFFIX for name in gate.limits.names)}"
            )
        if getattr(robot.config, "max_relative_target", None) is not None:
            raise ValueError("max_relative_target: leave it unset, the gate's step limit does its work")
        self.robot, self.gate, self.stop_on_fault = robot, gate, stop_on_fault
        self.config, self.config_class, self.name = robot.config, robot.config_class, robot.name
        self.robot_type, self.id = robot.robot_type, robot.id
        self.calibration_dir, self.calibration_fpath = robot.calibration_dir, robot.calibration_fpath
        self.command: Command | None = None
        self._clock, self._signals = clock or time.monotonic, StopSignals()
        self._reading: Timed | None = None
        self._data: list[Callable[[], object]] = []

    def __str__(self):
        """The robot's own name."""
        return f"{self.robot} (gated)"

    def __del__(self):
        """Nothing: a robot that was not disconnected is shut down when the program ends."""

    @property
    def observation_features(self) -> dict:
        """The robot's own."""
        return self.robot.observation_features

    @property
    def action_features(self) -> dict:
        """The robot's own."""
        return self.robot.action_features

    @property
    def cameras(self) -> dict:
        """The robot's own."""
        return getattr(self.robot, "cameras", {})

    @property
    def calibration(self) -> dict:
        """The robot's own."""
        return self.robot.calibration

    @property
    def is_connected(self) -> bool:
        """Whether anything of the robot is open."""
        return shutdown.is_open(self.robot)

    @property
    def is_calibrated(self) -> bool:
        """Whether the robot is."""
        return self.robot.is_calibrated

    @property
    def fault(self) -> Fault | None:
        """The latched fault."""
        return self.gate.fault

    def calibrate(self) -> None:
        """The robot's own."""
        self.robot.calibrate()

    def configure(self) -> None:
        """The robot's own."""
        self.robot.configure()

    def close_with(self, data: Callable[[], object]) -> None:
        """Call `data` when the robot has been shut down, such as a dataset's `finalize`."""
        self._data.append(data)

    def connect(self, calibrate: bool = True) -> None:
        """Connect the robot, and listen for signals. One that fails half-way is shut down again."""
        self._signals.listen()
        atexit.register(self._at_exit)
        try:
            self.robot.connect(calibrate)
        except BaseException as error:
            self._end(error)
            raise

    def get_observation(self) -> dict:
        """The robot's observation. Raises RobotFault if the driver fails."""
        now = self._clock()
        try:
            with self._signals.held():
                observation = self.robot.get_observation()
        except Exception as error:
            self._reading = None
            raise self._driver_fault("cannot be read", error) from error
        keys = ((name, name + SUFFIX) for name in self.gate.limits.names)
        self._reading = Timed({name: observation[key] for name, key in keys if key in observation}, now)
        return observation

    def send_action(self, action: dict, at: float | None = None) -> dict:
        """Send as much of the action as the gate lets through; returns what was sent.

        `at`: when the action was decided, by this robot's clock; now if not given. Without an observation since the
        last action the robot is read first. Raises RobotFault if the driver fails, or if nothing can be sent.
        """
        latched = self.gate.fault
        if self._reading is None:
            self.get_observation()
        command = self._step(action, at)
        if command.values is None and command.fault is None:
            self.get_observation()  # two readings must agree before the gate lets anything begin
            command = self._step(action, at)
        self._reading = None
        if command.fault is not None and latched is None:
            logger.error("%s stopped: %s", self, command.fault)
        if command.values is None:
            raise RobotFault(command.fault or Fault(FaultKind.MISSING, "no two readings agree", self._clock()))
        sent = self._send(command)
        if command.fault is not None and self.stop_on_fault:
            raise self._braked(RobotFault(command.fault))
        return sent

    def release(self) -> None:
        """Let the robot move again after a fault. Raises NotReleasable while its cause is still there."""
        self.gate.release()

    def rest(self) -> None:
        """Brake to rest, as before a pause (saving an episode); the next action goes on from there, however late."""
        if self.gate.fault is None and self.command is not None:
            self.gate.trip(FaultKind.STOP, "paused", self._clock())
            errors = self._brake()
            if errors:
                raise ExceptionGroup(f"{self} could not be brought to rest", errors)
            observation = self.get_observation()
            self._step({key: observation[key] for key in self.action_features}, None)
            self.gate.release()

    def disconnect(self) -> None:
        """Brake, release each motor, close the port, close the data. Raises the errors met, together, at the end."""
        if not self.is_connected and not self._data:
            self.robot.disconnect()  # says so, in LeRobot's words
        errors = self._shut_down()
        if errors:
            raise ExceptionGroup(f"{self}: {len(errors)} errors while it was shut down", errors)

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        """Shut down; if an exception ended the block, the shutdown's errors are noted on it."""
        if exc_value is None:
            self.disconnect()
        else:
            self._end(exc_value)

    def _step(self, action, at: float | None) -> Command:
        now = self._clock()
        goal = action
        if isinstance(action, dict):
            goal = {key.removesuffix(SUFFIX): value for key, value in action.items()}
        self.command = self.gate.step(Timed(goal, now if at is None else at), self._reading, now)
        return self.command

    def _send(self, command: Command) -> dict:
        action = dict(zip(self.gate.limits.names, map(float, command.values), strict=True))
        try:
            with self._signals.held():
                return self.robot.send_action({key: action[key.removesuffix(SUFFIX)] for key in self.action_features})
        except Exception as error:
            raise self._driver_fault("takes no command", error) from error

    def _driver_fault(self, what: str, error: Exception) -> RobotFault:
        """Latch a fault of the driver, and brake as far as the robot still listens."""
        line = " ".join(str(error).split()) or type(error).__name__
        fault = self.gate.trip(FaultKind.DRIVER, f"the robot {what}: {line}", self._clock())
        return self._braked(RobotFault(fault))

    def _braked(self, fault: RobotFault) -> RobotFault:
        for error in self._brake():
            fault.add_note(f"while braking: {error!r}")
        return fault

    def _brake(self) -> list[Exception]:
        """Send braking commands until at rest, or until the robot takes no more. The gate must have a fault."""
        errors, failed = [], 0
        while failed < GIVE_UP and self.command is not None and self.command.values is not None:
            now = self._clock()
            self.command = command = self.gate.step(None, None, now)
            action = dict(zip(self.gate.limits.names, map(float, command.values), strict=True))
            wanted = {key: action[key.removesuffix(SUFFIX)] for key in self.action_features}
            if shutdown.attempt(errors, "brake", lambda wanted=wanted: self.robot.send_action(wanted)):
                failed = 0
                if command.resting:
                    break
            else:
                failed += 1
            time.sleep(BRAKE_PERIOD_S)
        return errors

    def _shut_down(self) -> list[Exception]:
        """All of the order, with signals held back."""
        errors: list[Exception] = []
        with self._signals.held():
            if self.is_connected:
                self.gate.trip(FaultKind.STOP, "shutting down", self._clock())
                errors += self._brake()
                errors += shutdown.release_motors(self.robot)
                errors += shutdown.close(self.robot)
            while self._data:
                shutdown.attempt(errors, "close the data", self._data.pop(0))
            atexit.unregister(self._at_exit)
            self._signals.restore()
        return errors

    def _end(self, error: BaseException) -> None:
        """Shut down because of `error`, and note on it what went wrong then."""
        for other in self._shut_down():
            error.add_note(f"while shutting down: {other!r}")

    def _at_exit(self) -> None:
        if self.is_connected or self._data:
            self.disconnect()
