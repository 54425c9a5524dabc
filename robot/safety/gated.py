"""A LeRobot robot behind the safety gate: the same interface and features, but no other way to its motors.

Shutdown always follows the same order, whatever ended the loop (normal completion, an exception, a signal, a pulled
cable): brake, release each motor, close the port, close the data. No step is skipped because another failed, and the
errors are reported together.
"""

import atexit
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError

from robot.safety import shutdown
from robot.safety.braking import time_to_rest
from robot.safety.gate import Command, Gate, Margins
from robot.safety.input_check import Stamped
from robot.safety.stops import Fault, FaultKind, RobotFault, Stopped, StopSignals
from robot.ticks import Clock
from worldmodel.errors import UserError, in_one_line

SUFFIX = ".pos"
BRAKE_PERIOD_S = 0.01
GIVE_UP = 3  # number of consecutive failed braking commands after which the cable is assumed to be pulled

logger = logging.getLogger(__name__)


def _of_the_robot(name: str) -> Any:
    """Return a property that is the wrapped robot's."""
    return property(lambda gated: getattr(gated.robot, name))


class GatedRobot(Robot):
    """Any LeRobot robot commanded by joint positions, with a gate that enforces its limits.

    A fault of the driver raises RobotFault once the robot has been braked as far as it still responds. Any other fault
    is logged and latched: `send_action` then brakes, holds, and returns what it sent, until `release`. With
    `stop_on_fault`, for loops that know nothing of gates (LeRobot's own), it also brakes to rest and raises RobotFault.
    Raises ValueError if the robot's action keys are not the joints of the gate's limits, if it sets
    `max_relative_target`, or if it does not use degrees.
    """

    def __init__(self, robot: Robot, gate: Gate, stop_on_fault: bool = False, clock: Clock = time):
        names = [key.removesuffix(SUFFIX) for key in robot.action_features if key.endswith(SUFFIX)]
        others = [key for key in robot.action_features if not key.endswith(SUFFIX)]
        if others or set(names) != set(gate.limits.names):
            raise UserError(
                f"{robot.name}: is commanded by {', '.join(robot.action_features)}; "
                f"the limits are for {', '.join(name + SUFFIX for name in gate.limits.names)}"
            )
        if getattr(robot.config, "max_relative_target", None) is not None:
            raise UserError("max_relative_target: leave it unset, the gate's step limit does its work")
        if not getattr(robot.config, "use_degrees", True):
            raise UserError("use_degrees=false: leave it unset, the gate's limits are in degrees")
        self.robot = robot
        self.config, self.config_class, self.name = robot.config, robot.config_class, robot.name
        self.robot_type, self.id = robot.robot_type, robot.id
        self.calibration_dir, self.calibration_fpath = robot.calibration_dir, robot.calibration_fpath
        self.gate, self.stop_on_fault = gate, stop_on_fault
        self.command: Command | None = None
        self._time, self._signals = clock, StopSignals()
        self._reading: Stamped | None = None
        self._data: list[Callable[[], object]] = []

    def __del__(self):
        """Do nothing: a robot that was not disconnected is shut down when the program exits."""

    def __str__(self):
        return str(self.id or self.name)

    @property
    def is_connected(self) -> bool:
        """Whether any part of the robot is open."""
        return shutdown.is_open(self.robot)

    observation_features = _of_the_robot("observation_features")
    action_features = _of_the_robot("action_features")
    calibration = _of_the_robot("calibration")
    is_calibrated = _of_the_robot("is_calibrated")
    calibrate = _of_the_robot("calibrate")
    configure = _of_the_robot("configure")

    @property
    def cameras(self) -> dict:
        """The robot's cameras; empty if it has none."""
        return getattr(self.robot, "cameras", {})

    def held(self) -> AbstractContextManager[None]:
        """Return a context manager that defers signals, for work that must not be interrupted half-way."""
        return self._signals.held()

    @property
    def fault(self) -> Fault | None:
        """The latched fault, or None."""
        return self.gate.fault

    @property
    def margins(self) -> Margins:
        """How much the last command left of each limit. Raises ValueError before the first."""
        if self.command is None:
            raise ValueError(f"{self}: nothing was commanded yet")
        return self.command.margins

    def close_with(self, data: Callable[[], object]) -> None:
        """Call `data`, e.g. a dataset's `finalize`, once the robot has been shut down."""
        self._data.append(data)

    def connect(self, calibrate: bool = True) -> None:
        """Connect the robot and listen for signals; if connecting fails half-way, shut it down again.

        The gate starts where the arm is then, whoever moved it in the meantime. An earlier fault stays latched. Raises
        DeviceAlreadyConnectedError if any part of it is already open, and leaves that as it is.
        """
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is connected already; disconnect it first")
        self.forget()
        self._signals.listen()
        atexit.register(self._at_exit)
        try:
            self.robot.connect(calibrate)
        except BaseException as error:
            self._end(error)
            raise

    def get_observation(self) -> dict:
        """Return the robot's observation. Raises RobotFault if the driver fails."""
        with self._signals.held():
            self._reading, now = None, self._time.monotonic()
            try:
                observation = self.robot.get_observation()
            except Exception as error:
                raise self._driver_fault("cannot be read", error) from error
            names = [name for name in self.gate.limits.names if name + SUFFIX in observation]
            self._reading = Stamped({name: observation[name + SUFFIX] for name in names}, now)
            return observation

    def values(self, named: dict) -> np.ndarray:
        """Return the joints' values (D,) of an observation or an action, in the gate's order; NaN for a missing one."""
        return np.array([named.get(name + SUFFIX, math.nan) for name in self.gate.limits.names], float)

    def send_action(self, action: dict | np.ndarray, at: float | None = None) -> dict:
        """Send as much of the action as the gate lets through; return what was sent.

        `action`: by key, or (D,) in the gate's order. `at`: when it was decided, on the robot's `clock`; now by
        default. If there was no observation since the last action, the robot is read first. Raises RobotFault if the
        driver fails, if nothing can be sent, and with `stop_on_fault` on any fault.
        """
        with self._signals.held():
            latched = self.gate.fault
            if self._reading is None:
                self.get_observation()
            command = self._step(action, at)
            if command.values is None:
                self.get_observation()  # the gate starts only once two readings agree
                command = self._step(action, at)
            self._reading = None
            if command.fault is not None and latched is None:
                logger.error("%s stopped: %s", self, command.fault)
            if command.values is None:
                raise RobotFault(command.fault or Fault(FaultKind.MISSING, "no two readings agree", math.nan))
            try:
                sent = self.robot.send_action(self._action(command.values))
            except Exception as error:
                raise self._driver_fault("takes no command", error) from error
            if command.fault is not None and self.stop_on_fault:
                raise noted(RobotFault(command.fault), self._brake())
            return sent

    def release(self) -> None:
        """Let the robot move again after a fault. Raises NotReleasable while it moves or the cause persists."""
        self.gate.release()

    def forget(self) -> None:
        """Start anew where the arm is: it was moved by other means, e.g. reset. A fault stays latched."""
        self.gate.forget()
        self.command = self._reading = None

    def rest(self) -> None:
        """Brake to rest before a pause, e.g. to save an episode; the next action goes on from there, however late.

        Does nothing while a fault is latched or before the first command. Raises ExceptionGroup if a braking command
        fails, and RobotFault if the robot cannot be read then.
        """
        if self.gate.fault is not None or self.command is None:
            return
        with self._signals.held():
            self._trip(FaultKind.STOP, "paused")
            errors = self._brake()
            self.gate.forget()
            if errors:
                raise ExceptionGroup(f"{self} could not be brought to rest", errors)
            observation = self.get_observation()
            self._step({key: observation[key] for key in self.action_features}, None)
            self.gate.release()

    def disconnect(self) -> None:
        """Brake, release the motors, close port and data; then raise what failed together, or Stopped, noting it."""
        if not self.is_connected and not self._data:
            self.robot.disconnect()  # raises LeRobot's own error: not connected
        errors, signalled = self._shut_down()
        if signalled is not None:
            raise noted(Stopped(signalled), errors)
        if errors:
            raise ExceptionGroup(f"{self}: {len(errors)} errors while it was shut down", errors)

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        """Shut down; if an exception ended the block, the shutdown's errors are added to it as notes."""
        if exc_value is None:
            self.disconnect()
        else:
            self._end(exc_value)

    def _step(self, action, at: float | None) -> Command:
        now, goal = self._time.monotonic(), action
        if isinstance(action, dict):
            goal = {key.removesuffix(SUFFIX): value for key, value in action.items()}
        self.command = self.gate.step(Stamped(goal, now if at is None else at), self._reading, now)
        return self.command

    def _action(self, values: np.ndarray) -> dict[str, float]:
        by_name = dict(zip(self.gate.limits.names, map(float, values), strict=True))
        return {key: by_name[key.removesuffix(SUFFIX)] for key in self.action_features}

    def _trip(self, kind: FaultKind, message: str) -> Fault:
        fault = Fault(kind, message, self._time.monotonic())
        self.gate.trip(fault)
        return fault

    def _driver_fault(self, what: str, error: Exception) -> RobotFault:
        """Latch a fault of the driver, brake as far as possible, and return the error; the gate then starts anew."""
        fault = self._trip(FaultKind.DRIVER, f"the robot {what}: {in_one_line(error)}")
        logger.error("%s stopped: %s", self, fault)
        stopped = noted(RobotFault(fault), self._brake())
        self.gate.forget()
        return stopped

    def _brake(self) -> list[Exception]:
        """Brake to rest (the gate has a fault), or as far as the robot takes commands; return the errors met."""
        errors, failed = list[Exception](), 0
        slowest = time_to_rest(self.gate.limits.column("rate"), self.gate.limits.column("acceleration"))
        for _ in range(math.ceil(slowest / BRAKE_PERIOD_S) + GIVE_UP + 1):
            if failed == GIVE_UP:
                break
            command = self.command = self.gate.step(None, None, self._time.monotonic())
            if command.values is None:
                break
            shutdown.unlock(self.robot)
            if not shutdown.attempt(errors, "brake", partial(self.robot.send_action, self._action(command.values))):
                failed += 1
            elif command.resting:
                break
            else:
                failed = 0
            self._time.sleep(BRAKE_PERIOD_S)
        shutdown.unlock(self.robot)
        return errors

    def _shut_down(self) -> tuple[list[Exception], int | None]:
        """Run the whole shutdown with signals deferred. Return the errors met, and the signal if one came meanwhile."""
        errors: list[Exception] = []
        with self._signals.held():
            if self.is_connected:
                self._trip(FaultKind.STOP, "shutting down")
                errors += self._brake()
                errors += shutdown.release_motors(self.robot)
                errors += shutdown.close(self.robot)
            while self._data:
                shutdown.attempt(errors, "close the data", self._data.pop(0))
            atexit.unregister(self._at_exit)
            return errors, self._signals.restore()

    def _end(self, error: BaseException) -> None:
        """Shut down because of `error`, and add what went wrong during the shutdown to it as notes."""
        noted(error, self._shut_down()[0])

    def _at_exit(self) -> None:
        if self.is_connected or self._data:
            self.disconnect()


def noted[E: BaseException](error: E, others: list[Exception]) -> E:
    """Return `error` with a note for each of the other errors, which it brought about."""
    for other in others:
        error.add_note(f"{' '.join(getattr(other, '__notes__', []))}: {other!r}")
    return error
