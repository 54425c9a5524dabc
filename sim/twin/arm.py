"""The SO-101 in MuJoCo, driven in real time by simulated STS3215 servos, by LeRobot's calibration."""

import json
import math
import textwrap
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import mujoco
import numpy as np

from sim import InvalidValue
from sim.ramp import STEPS
from sim.so101.joints import GRIPPER, JOINTS
from sim.so101.kinematics import arm_file, bare_spec
from sim.twin.servo import Servo

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


def calibration_text(calibration: dict[str, JointCalibration]) -> str:
    """Format the calibration as LeRobot's JSON."""
    return json.dumps({joint: asdict(entry) for joint, entry in calibration.items()}, indent=4) + "\n"


def read_calibration(path: Path | str) -> dict[str, JointCalibration]:
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


REST = (0.0, -1.57, 1.57, 0.66, 0.0, 0.0)  # rad; folded, as the arm lies with its motors off
BACKLOG_S = 0.25  # time beyond this after a stall is dropped, not simulated
BURST = 8  # maximum steps before the serial line is polled again


def build(scene: Path | str | None = None) -> mujoco.MjModel:
    """Compile the arm on a bare table, or the `scene` file, which must have the arm's joints and actuators by name.

    Purely visual geometry is removed (masses remain, since only bodies with explicit inertia lose any). Actuators take
    target angles, as servos do, even beyond the joint's stops. `hold <joint>` is an equality constraint, initially
    inactive, that pins a joint as a hand would. Raises ValueError for an invalid scene or one without such an arm.
    """
    path = Path(scene) if scene else arm_file()
    try:
        return _spec(path, bare=not scene).compile()
    except ValueError as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(f"{path}: not a MuJoCo scene: {error}") from error


def _spec(path: Path, bare: bool) -> mujoco.MjSpec:
    spec = bare_spec(path)
    for kind, names in (("joint", {j.name for j in spec.joints}), ("actuator", {a.name for a in spec.actuators})):
        if missing := [joint for joint in JOINTS if joint not in names]:
            raise InvalidValue(f"{path}: no {kind} {', '.join(missing)}; an SO-101 has {', '.join(JOINTS)}")
    if bare:
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05])
    for actuator in spec.actuators:
        actuator.ctrllimited = False
    for joint in JOINTS:
        kinds = {"type": mujoco.mjtEq.mjEQ_JOINT, "objtype": mujoco.mjtObj.mjOBJ_JOINT}
        spec.add_equality(name=f"hold {joint}", name1=joint, active=False, **kinds)
    return spec


def limits(model: mujoco.MjModel) -> dict[str, tuple[float, float]]:
    """Return each joint's mechanical stops in rad."""
    ranges = {joint: model.joint(joint).range for joint in JOINTS}
    return {joint: (float(low), float(high)) for joint, (low, high) in ranges.items()}


class TwinArm:
    """Servos and physics that share one state; `servos[joint]` is the servo that answers on the serial line."""

    def __init__(self, model: mujoco.MjModel, calibration: Mapping[str, JointCalibration]):
        model = copy(model)  # the servos set its gains
        self.model, self.data = model, mujoco.MjData(model)
        self.dt_s = model.opt.timestep
        self._at = {joint: (model.joint(joint).qposadr[0], model.joint(joint).dofadr[0]) for joint in JOINTS}
        self._motor = {joint: model.actuator(joint).id for joint in JOINTS}
        self._hand = {joint: model.equality(f"hold {joint}").id for joint in JOINTS}
        self._gain = {joint: model.actuator(joint).gainprm[0] for joint in JOINTS}
        self._stall_nm = {joint: float(model.actuator(joint).forcerange[1]) for joint in JOINTS}
        stops = limits(model)
        self.scales = {joint: scale(joint, calibration[joint], stops[joint]) for joint in JOINTS}
        self.servos = {joint: Servo(calibration[joint].id) for joint in JOINTS}
        for joint, servo in self.servos.items():
            preload(servo, calibration[joint])
        self._clock_s: float | None = None
        self.dropped_s = 0.0
        self.reset(dict(zip(JOINTS, REST, strict=True)))

    def reset(self, joints: Mapping[str, float] | None = None, bodies: Mapping[str, list] | None = None) -> None:
        """Reset the scene, with the arm at REST except for `joints` (rad), and the named free `bodies` at poses (7,).

        The servos keep their registers, torque included, and hold the new position; held joints are released. Raises
        ValueError for an unknown name or a non-finite number.
        """
        places = dict(zip(JOINTS, REST, strict=True)) | _checked("joint", joints or {}, JOINTS, 1)
        bodies = _checked("body", bodies or {}, self._free_bodies(), 7)
        mujoco.mj_resetData(self.model, self.data)
        for joint, angle in places.items():
            self.data.qpos[self._at[joint][0]] = np.clip(angle, *self.model.joint(joint).range).item()
        for body, pose in bodies.items():
            at = self.model.jnt_qposadr[self.model.body(body).jntadr[0]]
            self.data.qpos[at : at + 7] = pose
        mujoco.mj_forward(self.model, self.data)
        for joint, servo in self.servos.items():
            servo.sense(self.scales[joint].steps(self.angle(joint)), 0.0, 0.0, 0.0)
            servo.stay()

    def _free_bodies(self) -> tuple[str, ...]:
        free = self.model.jnt_bodyid[self.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
        return tuple(self.model.body(body).name for body in free)

    def angle(self, joint: str) -> float:
        """Return a joint's true angle in rad."""
        return float(self.data.qpos[self._at[joint][0]])

    def hold(self, joint: str, angle: float | None = None) -> None:
        """Hold a joint as if by hand at `angle` (rad, in its range; default: where it is), whatever its motor does."""
        hand, at = self._hand[joint], self._at[joint][0]
        target = self.angle(joint) if angle is None else np.clip(angle, *self.model.joint(joint).range).item()
        self.model.eq_data[hand, 0] = target - self.model.qpos0[at]
        self.data.eq_active[hand] = 1

    def let_go(self, joint: str) -> None:
        """Release a joint held by `hold`."""
        self.data.eq_active[self._hand[joint]] = 0

    def held(self, joint: str) -> bool:
        """Return whether the joint is held by `hold`."""
        return bool(self.data.eq_active[self._hand[joint]])

    def advance(self, now_s: float) -> bool:
        """Step the physics towards `now_s` (any monotonic clock), at most BURST steps; return True if caught up.

        Of a stall longer than BACKLOG_S only that much is simulated; the arm stands still for the rest, which is added
        to `dropped_s`.
        """
        if self._clock_s is None:
            self._clock_s = now_s
        late = now_s - self._clock_s - BACKLOG_S
        if late > 0:
            self._clock_s += late
            self.dropped_s += late
        for _ in range(BURST):
            if self.due_s > now_s:
                break
            self.step()
            self._clock_s += self.dt_s
        return self.due_s > now_s

    @property
    def due_s(self) -> float:
        """When the next step is due on the clock of `advance`; -inf before its first call."""
        return -math.inf if self._clock_s is None else self._clock_s + self.dt_s

    def step(self) -> None:
        """Advance every servo and the physics by one time step."""
        model, data, dt_s = self.model, self.data, self.dt_s
        for joint, servo in self.servos.items():
            motor, drive = self._motor[joint], servo.drive(dt_s)
            gain = self._gain[joint] * drive.stiffness
            model.actuator_gainprm[motor, 0] = gain
            model.actuator_biasprm[motor, 1] = -gain
            most = self._stall_nm[joint] * drive.torque
            model.actuator_forcerange[motor] = -most, most
            data.ctrl[motor] = self.scales[joint].radians(drive.target)
        mujoco.mj_step(model, data)
        for joint, servo in self.servos.items():
            (at, dof), line = self._at[joint], self.scales[joint]
            effort = data.actuator_force[self._motor[joint]] / self._stall_nm[joint]
            servo.sense(line.steps(data.qpos[at]), line.slope * data.qvel[dof], float(effort), dt_s)

    def state(self) -> dict:
        """Return the true state as JSON-compatible values: joints, sites, free bodies and the simulated time."""
        data, model, joints = self.data, self.model, {}
        for joint, servo in self.servos.items():
            at, dof = self._at[joint]
            joints[joint] = {
                "position_rad": float(data.qpos[at]),
                "velocity_rad_s": float(data.qvel[dof]),
                "torque_nm": float(data.actuator_force[self._motor[joint]]),
                "torque_on": servo.powered and servo["Torque_Enable"] == 1,
                "powered": servo.powered,
                "held": self.held(joint),
                "goal": servo["Goal_Position"],
                "present": servo["Present_Position"],
                "status": servo["Status"],
            }
        sites = {model.site(i).name: data.site_xpos[i].tolist() for i in range(model.nsite)}
        bodies = {name: [*data.body(name).xpos, *data.body(name).xquat] for name in self._free_bodies()}
        return {"time_s": data.time, "joints": joints, "sites": sites, "bodies": bodies}


def _checked(what: str, given: Mapping, known: tuple[str, ...], size: int) -> dict:
    """Convert each named value to `size` finite numbers. Raises ValueError for unknown names or invalid values."""
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{given}: by the name of each {what}, {', '.join(known) or 'none'}")
    for name in given:
        if name not in known:
            raise InvalidValue(f"{name}: no such {what}; one of {', '.join(known) or 'none'}")
    return {name: finite(name, value, size) for name, value in given.items()}


def finite(name: str, value: object, size: int = 1) -> np.ndarray:
    """Return `value` as a float array (size,) of finite numbers. Raises InvalidValue for anything else, of any type."""
    try:
        given = np.asarray(value)
    except ValueError:  # ragged lists
        given = np.empty(0)
    if given.dtype.kind in "iuf" and given.size == size and given.ndim <= 1 and np.isfinite(given).all():
        return given.astype(float).reshape(size)
    wanted = f"{size} finite numbers" if size > 1 else "a finite number"
    raise InvalidValue(f"{name}={textwrap.shorten(str(value), 60)}: {wanted}")
