"""The simulated SO-101 as a LeRobot robot that behaves like `so101_follower`, except that it needs no port.

so101-nexus has such a robot too (`SimSOFollower`). It is not used because its observations do not match its features
(it adds the scene's state), it asks for a calibration file, and its frames take a quarter of a second without a GPU.
"""

from functools import cached_property

import numpy as np
from lerobot.cameras import Camera
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.robots.robot import Robot
from lerobot.robots.utils import ensure_safe_goal_position
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from lerobot.utils.errors import DeviceNotConnectedError

from robot.config_so101_sim import SimCameraConfig, SO101SimConfig
from robot.units import Units
from sim.renderer import Canvas
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS


class SimCamera(Camera):
    """Renders the current state of its scene on each read. Frames are (height, width, 3) uint8, RGB."""

    def __init__(self, config: SimCameraConfig):
        super().__init__(config)
        self.config = config
        self._scene: so101.VariedArm | None = None
        self._canvas: Canvas | None = None

    def show(self, scene: so101.VariedArm) -> None:
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
        """Prepare to render. Raises DeviceNotConnectedError without a scene, RenderingUnavailable without graphics."""
        if self._scene is None:
            raise DeviceNotConnectedError(f"{self}: it is not in a simulated robot")
        model, view = self._scene.model, self._scene.views[self.config.view]
        self._canvas = Canvas(model, self.height, self.width, view)

    def read(self, *_, **__) -> np.ndarray:
        """Render and return the current frame. Raises DeviceNotConnectedError."""
        if self._canvas is None or self._scene is None:
            raise DeviceNotConnectedError(f"{self} is not connected")
        return self._canvas.draw(self._scene.data)

    async_read = read_latest = read

    def disconnect(self) -> None:
        """Free the OpenGL resources."""
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = None


class SO101Sim(Robot):
    """A robot with the keys, units and features of LeRobot's `so101_follower`.

    Time passes only when a command is sent. `success`: whether the task is done now; `time_s`: the simulated time so
    far.
    """

    config_class = SO101SimConfig
    name = "semagram_so101_sim"

    def __init__(self, config: SO101SimConfig):
        super().__init__(config)
        self.config = config
        self.cameras = make_cameras_from_configs(config.cameras)
        self._scene: so101.VariedArm | None = None
        self.success = False
        self.time_s = 0.0

    @property
    def scene(self) -> so101.VariedArm:
        """The environment. Raises DeviceNotConnectedError while there is none."""
        if self._scene is None:
            raise DeviceNotConnectedError(f"{self} is not connected")
        return self._scene

    @property
    def _motors(self) -> dict[str, type]:
        return {f"{joint}.pos": float for joint in JOINTS}

    @cached_property
    def observation_features(self) -> dict[str, type | tuple]:
        """A float per joint, (height, width, 3) per camera."""
        return self._motors | {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}

    @cached_property
    def action_features(self) -> dict[str, type]:
        """A float per joint."""
        return self._motors

    @property
    def is_connected(self) -> bool:
        """Whether the scene exists and all cameras are connected."""
        return self._scene is not None and all(camera.is_connected for camera in self.cameras.values())

    @property
    def is_calibrated(self) -> bool:
        """Whether the robot is calibrated: always, a simulated arm needs no calibration."""
        return True

    def calibrate(self) -> None:
        """Do nothing: a simulated arm needs no calibration."""

    def configure(self) -> None:
        """Do nothing: there are no motors to configure."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Build the scene, at rest in the layout of `config.seed`, and connect the cameras."""
        self._scene = so101.build(self.config.task, self.config.control_hz, end_on_success=False)
        self.units = Units(*so101.limits(self.scene), self.config.use_degrees)
        try:
            for camera in self.cameras.values():
                if isinstance(camera, SimCamera):
                    camera.show(self.scene)
                camera.connect()
        except BaseException:
            self.disconnect()
            raise
        self.reset(self.config.seed)

    def reset(self, seed: int | None = None) -> None:
        """Lay the scene out anew, from `seed` or else from the random stream of the last seed."""
        _, info = self.scene.reset(seed=seed)
        self.success = bool(info["success"])

    @check_if_not_connected
    def get_observation(self) -> dict[str, float | np.ndarray]:
        """Return the joints' positions, at the encoders' resolution, and the cameras' frames."""
        values = self.units.read(so101.positions(self.scene))
        seen = dict(zip(self._motors, values.tolist(), strict=True))
        return seen | {name: camera.read_latest() for name, camera in self.cameras.items()}

    @check_if_not_connected
    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Move towards the targets for one control period; joints that are not named keep theirs.

        Returns what was sent: the targets, limited to `max_relative_target` from the joints. As on the real arm, a
        joint still stops at the end of its range.

        Raises:
            ValueError: for a target that is not finite or belongs to no joint; nothing is sent then.
        """
        goals = {key.removesuffix(".pos"): float(value) for key, value in action.items() if key.endswith(".pos")}
        for joint, value in goals.items():
            if joint not in JOINTS:
                raise ValueError(f"{joint}.pos: no such joint; they are {', '.join(JOINTS)}")
            if not np.isfinite(value):
                raise ValueError(f"{joint}.pos={value}: not a finite target")
        if self.config.max_relative_target is not None:
            here = self.units.read(so101.positions(self.scene))
            present = dict(zip(JOINTS, here.tolist(), strict=True))
            pairs = {joint: (goal, present[joint]) for joint, goal in goals.items()}
            goals = ensure_safe_goal_position(pairs, self.config.max_relative_target)
        targets = self.units.from_rad(self.scene.commanded)
        for joint, value in goals.items():
            targets[JOINTS.index(joint)] = value
        low, high = so101.limits(self.scene)
        *_, info = self.scene.step(np.clip(self.units.to_rad(targets), low, high).astype(np.float32))
        self.time_s += 1 / self.config.control_hz
        self.success = bool(info["success"])
        return {f"{joint}.pos": value for joint, value in goals.items()}

    def disconnect(self) -> None:
        """Close the cameras and the scene."""
        for camera in self.cameras.values():
            if camera.is_connected:
                camera.disconnect()
        if self._scene is not None:
            self._scene.close()
        self._scene = None


class SimulatedTime:
    """The simulated robot's clock, which advances as the robot is commanded, so that a loop never waits.

    Each query advances it by a tenth of a microsecond until the next command, so that no two times are equal.
    """

    LOOK_S = 1e-7

    def __init__(self, robot):
        """Follow `robot.time_s`, the simulated time so far."""
        self._robot, self._at, self._looked = robot, 0.0, 0.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        self._looked = self.LOOK_S + (self._looked if self._robot.time_s == self._at else 0.0)
        self._at = self._robot.time_s
        return self._at + self._looked

    def sleep(self, seconds: float) -> None:
        """Return at once: simulated time passes only with commands."""
