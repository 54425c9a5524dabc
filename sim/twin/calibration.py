"""LeRobot calibration files, which map joint angles to servo steps: reading, writing and applying them."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from sim import InvalidValue
from sim.so101.joints import GRIPPER, JOINTS
from sim.twin.servo import STEPS, Servo

STEPS_PER_RAD = STEPS / (2 * math.pi)
# On a real arm the servo horns are never mounted exactly as drawn: offsets of both signs, in steps.
OFFSETS = (37, -412, 1290, -86, 655, -1503)


@dataclass(frozen=True)
class JointCalibration:
    """One joint's entry in a LeRobot calibration file; offset and range are in steps."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    def __post_init__(self):
        """Raise ValueError for values that no SO-101 servo can hold."""
        low, high, half = self.range_min, self.range_max, STEPS // 2
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidValue(f"{name}={value}: a whole number")
        if not 0 <= self.id < 254:
            raise InvalidValue(f"id={self.id}: from 0 to 253")
        if self.drive_mode != 0:
            raise InvalidValue(f"drive_mode={self.drive_mode}: 0, as LeRobot writes it for an SO-101")
        if abs(self.homing_offset) >= half:
            raise InvalidValue(f"homing_offset={self.homing_offset}: from {1 - half} to {half - 1}")
        if not 0 <= low < high < STEPS:
            raise InvalidValue(f"range_min={low} range_max={high}: 0 <= min < max <= {STEPS - 1}")


@dataclass(frozen=True)
class Scale:
    """Linear map from joint angle to shaft: steps = zero + slope * radians, homing offset included."""

    zero: float
    slope: float

    def steps(self, radians: float) -> float:
        """Return the shaft position in steps at a joint angle in rad."""
        return self.zero + self.slope * radians

    def radians(self, steps: float) -> float:
        """Return the joint angle in rad at a shaft position in steps."""
        return (steps - self.zero) / self.slope


def scale(joint: str, calibration: JointCalibration, limits: tuple[float, float]) -> Scale:
    """Return the map between a joint's angle (rad, between its mechanical `limits`) and its servo's steps.

    LeRobot defines the middle of the calibrated range as 0 degrees, and the gripper's range as 0 to 100 %. The former
    corresponds to the model's zero, the latter to the model's gripper from closed to open.
    """
    low, high = calibration.range_min, calibration.range_max
    if joint == GRIPPER:
        slope = (high - low) / (limits[1] - limits[0])
        return Scale(low + calibration.homing_offset - slope * limits[0], slope)
    return Scale((low + high) / 2 + calibration.homing_offset, STEPS_PER_RAD)


def fitting(limits: dict[str, tuple[float, float]]) -> dict[str, JointCalibration]:
    """Return the calibration that LeRobot's procedure would find on an arm with these mechanical limits (rad)."""
    entries, middle = {}, STEPS // 2 - 1
    for number, (joint, offset) in enumerate(zip(JOINTS, OFFSETS, strict=True), 1):
        low, high = limits[joint]
        half = (high - low) / 2 if joint == GRIPPER else max(-low, high)
        reach = min(round(half * STEPS_PER_RAD), middle)
        entries[joint] = JointCalibration(number, 0, offset, middle - reach, middle + reach)
    return entries


def preload(servo: Servo, calibration: JointCalibration) -> None:
    """Set the servo's saved registers as LeRobot's calibration would, so that they match its file; power it on."""
    servo["ID"] = calibration.id
    servo["Homing_Offset"] = calibration.homing_offset
    servo["Min_Position_Limit"], servo["Max_Position_Limit"] = calibration.range_min, calibration.range_max
    servo.saved = bytes(servo.memory[: len(servo.saved)])
    servo.power_on()


def text(calibration: dict[str, JointCalibration]) -> str:
    """Format the calibration as LeRobot's JSON."""
    return json.dumps({joint: asdict(entry) for joint, entry in calibration.items()}, indent=4) + "\n"


def read(path: Path | str) -> dict[str, JointCalibration]:
    """Read a LeRobot calibration file. Raises ValueError naming the file and joint, or OSError if unreadable."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValue(f"{path}: not a LeRobot calibration (JSON): {error}") from error
    if not isinstance(entries, dict) or set(entries) != set(JOINTS):
        found = ", ".join(entries) if isinstance(entries, dict) else type(entries).__name__
        raise InvalidValue(f"{path}: an SO-101's joints are {', '.join(JOINTS)}; it has {found}")
    calibration = {}
    for joint in JOINTS:
        try:
            calibration[joint] = JointCalibration(**entries[joint])
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"{path}: {joint}: {error}") from error
    if len(ids := {entry.id for entry in calibration.values()}) < len(calibration):
        raise InvalidValue(f"{path}: two joints have one id: {ids}")
    return calibration
