"""Lets go of a LeRobot robot: each motor released, even if another fails, then everything that is open closed.

LeRobot's own `disconnect` stops at the first motor that does not answer: the others keep their torque, the port stays
open. Nothing here raises; every function returns the errors it met.
"""

import warnings
from collections.abc import Callable, Iterator

from robot.safety.faults import TRYING

RETRIES = 2


def attempt(errors: list[Exception], what: str, call: Callable[[], object]) -> bool:
    """Whether `call` went well; its error, with a note of `what` was tried, is added to `errors` otherwise."""
    try:
        call()
    except Exception as error:
        error.add_note(f"{TRYING}{what}")
        errors.append(error)
        return False
    return True


def parts(robot) -> Iterator[tuple[object, object]]:
    """Each motors bus of a robot, and of the robots it is made of (an arm on either side), with its owner."""
    from lerobot.motors.motors_bus import MotorsBusBase
    from lerobot.robots import Robot

    for value in vars(robot).values():
        if isinstance(value, MotorsBusBase):
            yield value, robot
        elif isinstance(value, Robot):
            yield from parts(value)


def is_open(robot) -> bool:
    """Whether anything of the robot is open: LeRobot's is_connected is false when one camera of many is lost."""
    cameras = getattr(robot, "cameras", {})
    return (
        robot.is_connected
        or any(bus.is_connected for bus, _ in parts(robot))
        or any(camera.is_connected for camera in cameras.values())
    )


def unlock(robot) -> None:
    """Make the motors' buses usable again after a packet that failed half-way, which LeRobot leaves marked as busy."""
    for bus, _ in parts(robot):
        unlock_bus(bus)


def unlock_bus(bus) -> None:
    """The same for one bus."""
    if hasattr(bus, "port_handler"):
        bus.port_handler.is_using = False


def release_motors(robot) -> list[Exception]:
    """Take the torque off each motor, unless the robot's config keeps it on (disable_torque_on_disconnect=false)."""
    errors: list[Exception] = []
    for bus, owner in parts(robot):
        if not bus.is_connected or not getattr(owner.config, "disable_torque_on_disconnect", True):
            continue
        for motor in bus.motors:
            unlock(robot)
            attempt(errors, f"release {motor}", lambda bus=bus, motor=motor: _release(bus, motor))
    return errors


def _release(bus, motor: str) -> None:
    """Take the torque off one motor.

    A servo that protects itself obeys, but its reply carries its trouble, of which LeRobot makes a RuntimeError: its
    torque is read back, and if that is off, a warning tells the trouble. If not, it is told once more: on a slow line
    what was read may have been of before.
    """
    trouble = None
    for last in (False, True):
        try:
            bus.disable_torque(motor, num_retry=RETRIES)
            break
        except RuntimeError as error:
            trouble = str(error).rpartition("[RxPacketError] ")[2]
            unlock_bus(bus)
            if not bus.sync_read("Torque_Enable", motor, num_retry=RETRIES)[motor]:
                break
            if last:
                raise
    if trouble is not None:
        warnings.warn(f"{motor} is released, but its servo was in trouble: {trouble}", stacklevel=2)


def close(robot) -> list[Exception]:
    """Close the ports, then the robot as it does itself, then what that leaves open.

    Itself, a robot with a port would release each motor once more, and stop at the first that is in trouble.
    """
    errors: list[Exception] = []
    for bus, _ in parts(robot):
        if bus.is_connected:
            attempt(errors, "close the port", lambda bus=bus: bus.disconnect(disable_torque=False))
    if robot.is_connected:
        attempt(errors, "disconnect", robot.disconnect)
    for name, camera in getattr(robot, "cameras", {}).items():
        if camera.is_connected:
            attempt(errors, f"close the camera {name}", camera.disconnect)
    return errors
