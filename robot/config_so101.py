"""Configurations of the SO-101, gated or simulated, as LeRobot's commands read them.

`--robot.type=semagram_so101`, `--robot.type=semagram_so101_sim`, `{wrist: {type: semagram_sim, view: wrist, ...}}`.
LeRobot finds the classes that they configure by name in the module of the same name without `config_`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lerobot.cameras import CameraConfig
from lerobot.robots.config import RobotConfig
from lerobot.robots.so_follower import SO101FollowerConfig

from robot.safety.limits import Limits, so101
from robot.settings import CAMERAS
from sim.so101.tasks import TASKS
from worldmodel.errors import UserError
from worldmodel.strict import check_ranges, one_of, ranged

VIEWS = ("wrist", "side", "overhead")


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


@CameraConfig.register_subclass("semagram_sim")
@dataclass(kw_only=True)
class SimCameraConfig(CameraConfig):
    """`view`: where it looks from, the arm's `wrist`, its `side`, or `overhead`; `width` and `height` in pixels."""

    view: str = one_of("wrist", VIEWS)

    def __post_init__(self):
        check_ranges("", self)


def sim_cameras(sizes: Mapping[str, tuple[int, int]], fps: int) -> dict[str, SimCameraConfig]:
    """Return the simulated arm's camera for each name in `CAMERAS`, from its (height, width) in pixels."""
    return {
        name: SimCameraConfig(view=CAMERAS[name], height=height, width=width, fps=fps)
        for name, (height, width) in sizes.items()
    }


@RobotConfig.register_subclass("semagram_so101_sim")
@dataclass(kw_only=True)
class SO101SimConfig(RobotConfig):
    """An SO-101 in a scene of so101-nexus. Fields shared with LeRobot's `so101_follower` have the same meaning.

    `task`: the scene's task, by its name in `sim.so101.tasks`. `seed`: of the first layout. Each command sent lasts 1 /
    `control_hz` seconds, which should match the loop's rate.
    """

    task: str = one_of("so101-touch", TASKS)
    seed: int = ranged(0, low=0)
    control_hz: float = ranged(30.0, low=5, high=100)
    cameras: dict[str, CameraConfig] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        check_ranges("robot.", self)
