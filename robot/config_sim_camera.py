"""What can be set about a camera of the simulated arm: `{wrist: {type: semagram_sim, view: wrist, ...}}`."""

from dataclasses import dataclass

from lerobot.cameras import CameraConfig

from worldmodel.mistakes import Mistake

VIEWS = ("wrist", "side", "overhead")


@CameraConfig.register_subclass("semagram_sim")
@dataclass(kw_only=True)
class SimCameraConfig(CameraConfig):
    """Where it looks from: the arm's `wrist`, its `side`, or `overhead`; `width` and `height` in pixels."""

    view: str = "wrist"

    def __post_init__(self):
        """Raise ValueError for a view that is not there."""
        if self.view not in VIEWS:
            raise Mistake(f"view={self.view}: one of {', '.join(VIEWS)}")
