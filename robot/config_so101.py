"""Configuration of an SO-101 behind the safety gate, as LeRobot's commands read it: `--robot.type=semagram_so101`."""

from dataclasses import dataclass, field, replace
from typing import Any

from lerobot.robots.config import RobotConfig
from lerobot.robots.so_follower import SO101FollowerConfig

from robot.safety.limits import Limits, so101
from worldmodel.errors import UserError


@RobotConfig.register_subclass("semagram_so101")
@dataclass(kw_only=True)
class SemagramSO101Config(SO101FollowerConfig):
    """LeRobot's `so101_follower` with the gate's limits (docs/gate.md); its other fields mean what they mean there.

    `limits`: careful, normal or trained. `joints`: changes of single joints' limits, e.g. `{gripper: {step: 10}}`;
    `box`: of where the tip may be, e.g. `{z_low: 0.05}`. The times in seconds are those of `robot.safety.limits`.
    """

    limits: str = "careful"
    joints: dict[str, dict[str, float]] = field(default_factory=dict)
    box: dict[str, float] = field(default_factory=dict)
    observation_age_s: float = Limits.observation_age_s
    goal_age_s: float = Limits.goal_age_s
    loop_s: float = Limits.loop_s
    stall_s: float = Limits.stall_s

    def __post_init__(self):
        """Raise ValueError for limits that are impossible or unknown."""
        super().__post_init__()
        self.limits_of(None)

    def limits_of(self, calibration) -> Limits:
        """Return the gate's limits for an arm with LeRobot's `calibration`. Raises ValueError."""
        found = so101(self.limits, calibration)
        if unknown := [name for name in self.joints if name not in found.joints]:
            raise UserError(f"robot.joints.{unknown[0]}: no such joint; they are {', '.join(found.joints)}")
        joints = {name: _changed(joint, self.joints.get(name, {}), name) for name, joint in found.joints.items()}
        times = {name: getattr(self, name) for name in ("observation_age_s", "goal_age_s", "loop_s", "stall_s")}
        return replace(found, joints=joints, box=_changed(found.box, self.box, "box"), **times)


def _changed(limits: Any, changes: dict[str, float], name: str) -> Any:
    """Return the frozen record `limits` with these changes. Raises ValueError for one that it has no field for."""
    try:
        return replace(limits, **changes)
    except TypeError as error:  # no such field
        raise UserError(f"robot.{name}: {error}") from error
