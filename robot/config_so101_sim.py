"""Configurations of the simulated SO-101 and of its cameras, as LeRobot's commands read them.

`--robot.type=semagram_so101_sim`; `{wrist: {type: semagram_sim, view: wrist, ...}}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lerobot.cameras import CameraConfig
from lerobot.robots.config import RobotConfig

from robot.arm_options import CAMERAS
from sim.so101.tasks import TASKS
from worldmodel.errors import UserError

VIEWS = ("wrist", "side", "overhead")


@CameraConfig.register_subclass("semagram_sim")
@dataclass(kw_only=True)
class SimCameraConfig(CameraConfig):
    """`view`: where it looks from, the arm's `wrist`, its `side`, or `overhead`; `width` and `height` in pixels."""

    view: str = "wrist"

    def __post_init__(self):
        """Raise ValueError for an unknown view."""
        if self.view not in VIEWS:
            raise UserError(f"view={self.view}: one of {', '.join(VIEWS)}")


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

    task: str = "so101-touch"
    seed: int = 0
    control_hz: float = 30.0
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    max_relative_target: float | dict[str, float] | None = None
    use_degrees: bool = True

    def __post_init__(self):
        """Raise ValueError for an unknown task or a value out of range."""
        super().__post_init__()
        if self.task not in TASKS:
            raise UserError(f"robot.task={self.task}: one of {', '.join(TASKS)}")
        if not 5 <= self.control_hz <= 100:
            raise UserError(f"robot.control_hz={self.control_hz}: from 5 to 100")
        if self.seed < 0:
            raise UserError(f"robot.seed={self.seed}: at least 0")
