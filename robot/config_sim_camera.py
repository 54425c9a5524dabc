"""Configuration of a camera of the simulated arm: `{wrist: {type: semagram_sim, view: wrist, ...}}`."""

from collections.abc import Mapping
from dataclasses import dataclass

from lerobot.cameras import CameraConfig

from robot.arm_options import CAMERAS
from worldmodel.mistakes import Mistake

VIEWS = ("wrist", "side", "overhead")


@CameraConfig.register_subclass("semagram_sim")
@dataclass(kw_only=True)
class SimCameraConfig(CameraConfig):
    """`view`: where it looks from, the arm's `wrist`, its `side`, or `overhead`; `width` and `height` in pixels."""

    view: str = "wrist"

    def __post_init__(self):
        """Raise ValueError for an unknown view."""
        if self.view not in VIEWS:
            raise Mistake(f"view={self.view}: one of {', '.join(VIEWS)}")


def sim_cameras(sizes: Mapping[str, tuple[int, int]], fps: int) -> dict[str, SimCameraConfig]:
    """Return the simulated arm's camera for each name in `CAMERAS`, from its (height, width) in pixels."""
    return {
        name: SimCameraConfig(view=CAMERAS[name], height=height, width=width, fps=fps)
        for name, (height, width) in sizes.items()
    }
