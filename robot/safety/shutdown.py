"""Shut down a LeRobot robot: release each motor, even if another fails, then close everything that is open.

LeRobot's own `disconnect` stops at the first motor that does not answer: the others keep their torque, the port stays
open. `release_motors` and `close` do not raise; they return the errors they met.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

from lerobot.motors.motors_bus import MotorsBusBase
from lerobot.robots import Robot

from worldmodel.errors import TRYING

RETRIES = 2


def attempt(errors: list[Exception], what: str, call: Callable[[], object]) -> bool:
    """Return whether `call` succeeded; if not, append its error, with a note on what was tried, to `errors`."""
    try:
        call()
    except Exception as error:
        error.add_note(f"{TRYING}{what}")
        errors.append(error)
        return False
    return True


def parts(robot: Robot) -> Iterator[tuple[MotorsBusBase, Robot]]:
    """Yield each motors bus of a robot, and of the robots it is made of (e.g. two arms), with its owner."""
    for value in vars(robot).values():
        if isinstance(value, MotorsBusBase):
            yield value, robot
        elif isinstance(value, Robot):
            yield from parts(value)


def is_open(robot: Robot) -> bool:
    """Whether any part of the robot is open: LeRobot's is_connected is false once a single camera is lost."""
    cameras = getattr(robot, "cameras", {})
    return (
        robot.is_connected
        or any(bus.is_connected for bus, _ in parts(robot))
        or any(camera.is_connected for camera in cameras.values())
    )


def unlock(robot: Robot) -> None:
    """Make the motors' buses usable again after a packet that failed half-way, which LeRobot leaves marked as busy."""
    for bus, _ in parts(robot):
        if hasattr(bus, "port_handler"):
            bus.port_handler.is_using = False


def release_motors(robot: Robot) -> list[Exception]:
    """Switch off each motor's torque, unless `disable_torque_on_disconnect` is false; return the errors met."""
    errors: list[Exception] = []
    for bus, owner in parts(robot):
        if not bus.is_connected or not getattr(owner.config, "disable_torque_on_disconnect", True):
            continue
        for motor in bus.motors:
            unlock(robot)
            attempt(errors, f"release {motor}", partial(_release, bus, motor))
    return errors


def _release(bus: MotorsBusBase, motor: str) -> None:
    """Switch off one motor's torque.

    A servo that protects itself obeys, but its reply carries an error flag, from which LeRobot makes a RuntimeError. So
    the torque is read back, and if it is off, a warning reports the flag. If not, the command is sent once more: on a
    slow line the value read may predate it.
    """
    trouble = None
    for last in (False, True):
        try:
            bus.disable_torque(motor, num_retry=RETRIES)
            break
        except RuntimeError as error:
            trouble = str(error).rpartition("[RxPacketError] ")[2]
            if not bus.sync_read("Torque_Enable", motor, num_retry=RETRIES)[motor]:
                break
            if last:
                raise
    if trouble is not None:
        warnings.warn(f"{motor} is released, but its servo was in trouble: {trouble}", stacklevel=2)


def close(robot: Robot) -> list[Exception]:
    """Close the ports, then let the robot disconnect itself, then close what that leaves open; return the errors met.

    With its port still open, the robot would release each motor again, and stop at the first that reports an error.
    """
    errors: list[Exception] = []
    for bus, _ in parts(robot):
        if bus.is_connected:
            attempt(errors, "close the port", partial(bus.disconnect, disable_torque=False))
    if robot.is_connected:
        attempt(errors, "disconnect", robot.disconnect)
    for name, camera in getattr(robot, "cameras", {}).items():
        if camera.is_connected:
            attempt(errors, f"close the camera {name}", camera.disconnect)
    return errors
