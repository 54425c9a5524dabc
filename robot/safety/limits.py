"""An arm's units, and limits of its commands: per joint, a box for the gripper's tip, how old or late data may be.

Limits are in the robot's own units, as LeRobot reports them: degrees, and 0 to 100 for a gripper.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from sim.so101.joints import COUNTS, GRIPPER, Units
from worldmodel.errors import UserError
from worldmodel.strict import check

SLOWEST_STOP_S = 10.0


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint: position from `low` to `high`; `rate` in units/s, `acceleration` in units/s^2.

    `step`: how far a command may be from the measured position, which bounds how hard a servo pulls. `stall`: a joint
    that does not move while its command is further away than this is stalled (`Limits.stall_s`); by default it never
    is.
    """

    low: float
    high: float
    rate: float
    acceleration: float
    step: float
    stall: float = 1e6

    def __post_init__(self):
        check("", self, "low high", low=-1e6, high=1e6)
        check("", self, "rate acceleration step stall", low=1e-3, high=1e6)
        if self.low >= self.high:
            raise UserError(f"low={self.low}: below high, {self.high}")
        if self.rate > SLOWEST_STOP_S * self.acceleration:
            raise UserError(f"rate={self.rate}: at most {SLOWEST_STOP_S:g} s of acceleration, {self.acceleration}")


@dataclass(frozen=True)
class Box:
    """Where the gripper's tip may be, in metres from the arm's base: x forward, y left, z up from the table."""

    x_low: float = -1.0
    x_high: float = 1.0
    y_low: float = -1.0
    y_high: float = 1.0
    z_low: float = 0.0
    z_high: float = 1.0

    def __post_init__(self):
        check("box.", self, " ".join(f.name for f in fields(self)), low=-100, high=100)
        for axis in "xyz":
            low, high = getattr(self, f"{axis}_low"), getattr(self, f"{axis}_high")
            if low >= high:
                raise UserError(f"box.{axis}_low={low}: below box.{axis}_high, {high}")

    @property
    def low(self) -> np.ndarray:
        """The lowest corner (3,)."""
        return np.array([self.x_low, self.y_low, self.z_low])

    @property
    def high(self) -> np.ndarray:
        """The highest corner (3,)."""
        return np.array([self.x_high, self.y_high, self.z_high])


@dataclass(frozen=True)
class Limits:
    """Limits of a whole robot, with its joints in order.

    `observation_age_s` and `goal_age_s`: readings or goals older than this are stale; `loop_s`: the longest time
    between steps; `stall_s`: how long a joint may be stalled.
    """

    joints: Mapping[str, JointLimits]
    box: Box | None = None
    observation_age_s: float = 0.2
    goal_age_s: float = 0.5
    loop_s: float = 0.2
    stall_s: float = 1.5

    def __post_init__(self):
        check("", self, "observation_age_s goal_age_s loop_s stall_s", above=0, high=60)

    @property
    def names(self) -> tuple[str, ...]:
        """The joints' names, in order."""
        return tuple(self.joints)

    def column(self, field: str) -> np.ndarray:
        """Return one field of every joint (D,)."""
        return np.array([getattr(joint, field) for joint in self.joints.values()], dtype=float)


TURN = 360.0  # LeRobot's degrees: a full turn is the highest encoder count
RANGES = {  # the arm's own ranges, in degrees about the middle of its calibration
    "shoulder_pan": (-110.0, 110.0),
    "shoulder_lift": (-100.0, 100.0),
    "elbow_flex": (-96.8, 96.8),
    "wrist_flex": (-95.0, 95.0),
    "wrist_roll": (-157.2, 157.2),
    GRIPPER: (0.0, 100.0),
}
_PACES = {  # (rate, acceleration, step) of the joints and of the gripper, whose step bounds how hard it presses
    "careful": ((30.0, 120.0, 12.0), (50.0, 250.0, 20.0)),
    "normal": ((120.0, 600.0, 25.0), (200.0, 1000.0, 40.0)),
    "trained": ((160.0, 9000.0, 45.0), (300.0, 18000.0, 70.0)),  # above anything that `sim.so101.joints` does at 30 Hz
}
_STALL = 8.0  # degrees: more than a joint sags; a servo protects itself after 2 s. Not for grippers: they hold things
_BOXES = {"careful": Box(x_low=0.0, z_low=0.02), "normal": Box(z_low=0.0), "trained": Box(z_low=0.0)}
_EDGES = {"careful": 5.0, "normal": 1.0, "trained": 0.5}  # safety margin in degrees at each end of a joint's range
PRESETS = tuple(_PACES)


def so101(preset: str = "careful", calibration: Mapping | None = None) -> Limits:
    """Return the limits of an SO-101 for a named preset.

    `careful`: for a first run; `normal`: after it; `trained`: lets through all that a policy may have done in
    simulation, jerks included. `calibration`: LeRobot's of this arm (joint -> range_min, range_max in counts); a range
    narrower than the arm's own narrows the limits. Raises ValueError for an unknown preset, or a calibration that lacks
    a joint or has no range.
    """
    if preset not in PRESETS:
        raise UserError(f"limits={preset}: one of {', '.join(PRESETS)}")
    joints = {}
    for name, (low, high) in RANGES.items():
        rate, acceleration, step = _PACES[preset][name == GRIPPER]
        joint = JointLimits(low, high, rate, acceleration, step)
        if name != GRIPPER:
            half = math.inf if calibration is None else _half_range(name, calibration)
            edge = _EDGES[preset]
            joint = replace(joint, low=max(low, -half) + edge, high=min(high, half) - edge, stall=_STALL)
        joints[name] = joint
    return Limits(joints, _BOXES[preset])


def _half_range(name: str, calibration: Mapping) -> float:
    """Return the degrees from the middle of a joint's calibrated range to its end. Raises ValueError without one."""
    entry = calibration.get(name)
    if entry is None:
        raise UserError(f"calibration: no joint {name!r}, only {', '.join(calibration) or 'none'}")
    half = (entry.range_max - entry.range_min) / 2 * TURN / COUNTS
    if not half > 2 * max(_EDGES.values()):
        raise UserError(f"calibration: {name} from {entry.range_min} to {entry.range_max}: no range; calibrate the arm")
    return half


ARM = Units(*np.radians([*list(RANGES.values())[:-1], (-10.0, 100.0)]).T)
"""The SO-101's: the model's gripper opens from -10 to 100 degrees."""
