"""A LeRobot camera in the simulated arm's scene; a frame costs milliseconds without a GPU."""

from typing import TYPE_CHECKING

import numpy as np
from lerobot.cameras import Camera
from lerobot.utils.errors import DeviceNotConnectedError

from robot.config_sim_camera import SimCameraConfig
from sim.canvas import Canvas

if TYPE_CHECKING:
    from sim.so101.scene import VariedArm


class SimCamera(Camera):
    """Renders the current state of its scene on each read. Frames are (height, width, 3) uint8, RGB."""

    def __init__(self, config: SimCameraConfig):
        super().__init__(config)
        self.config = config
        self._scene: VariedArm | None = None
        self._canvas: Canvas | None = None

    def show(self, scene: "VariedArm") -> None:
        """Set the environment that it looks at."""
        self._scene = scene

    @property
    def is_connected(self) -> bool:
        """Whether it is ready to render."""
        return self._canvas is not None

    @staticmethod
    def find_cameras() -> list[dict]:
        """Return no cameras: they exist only in a configuration."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Prepare to render.

        Raises DeviceNotConnectedError without a scene, RenderingUnavailable without graphics.
        """
        if self._scene is None:
            raise DeviceNotConnectedError(f"{self}: it is not in a simulated robot")
        model, view = self._scene.model, self._scene.views[self.config.view]
        self._canvas = Canvas(model, self.height, self.width, view)

    def read(self, color_mode=None) -> np.ndarray:
        """Render and return the current frame. Raises DeviceNotConnectedError."""
        if self._canvas is None or self._scene is None:
            raise DeviceNotConnectedError(f"{self} is not connected")
        return self._canvas.draw(self._scene.data)

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        """Return the current frame; see `read`."""
        return self.read()

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        """Return the current frame; see `read`."""
        return self.read()

    def disconnect(self) -> None:
        """Free the OpenGL resources."""
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = None
