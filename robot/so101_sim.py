"""The simulated SO-101 as a LeRobot robot: nothing above can tell it from `so101_follower`, but that it needs no port.

so101-nexus has such a robot too (`SimSOFollower`). It is not used since what it observes is not what its features say
(it adds the scene's state), it asks for a calibration file, and its frames take a quarter of a second without a GPU.
"""

from functools import cached_property

import gymnasium
import numpy as np
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.robots.robot import Robot
from lerobot.robots.utils import ensure_safe_goal_position
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from robot.config_so101_sim import SO101SimConfig
from robot.sim_camera import SimCamera
from robot.units import Units
from sim.joints import JOINTS
from sim.so101 import scene as so101


class SO101Sim(Robot):
    """Keys, units and features of LeRobot's `so101_follower`. Time passes when a command is sent, and only then.

    `scene`: the environment of `sim.so101.scene`, once connected; `success`: whether the task is done now; `time_s`:
    how long it has been commanded in all.
    """

    config_class = SO101SimConfig
    name = "semagram_so101_sim"

    def __init__(self, config: SO101SimConfig):
        super().__init__(config)
        self.config = config
        self.cameras = make_cameras_from_configs(config.cameras)
        self.scene: gymnasium.Env | None = None
        self.success = False
        self.time_s = 0.0

    @property
    def _motors(self) -> dict[str, type]:
        return {f"{joint}.pos": float for joint in JOINTS}

    @cached_property
    def observation_features(self) -> dict[str, type | tuple]:
        """A float for each joint, (height, width, 3) for each camera."""
        return self._motors | {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}

    @cached_property
    def action_features(self) -> dict[str, type]:
        """A float for each joint."""
        return self._motors

    @property
    def is_connected(self) -> bool:
        """Whether there is a scene."""
        return self.scene is not None and all(camera.is_connected for camera in self.cameras.values())

    @property
    def is_calibrated(self) -> bool:
        """Always."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Build the scene, at rest as `config.seed` lays it out, and the cameras."""
        self.scene = so101.build(self.config.task, self.config.control_hz, end_on_success=False)
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
        """Lay the scene out anew: as `seed` says, or as comes next after the last seed."""
        _, info = self.scene.reset(seed=seed)
        self.success = bool(info["success"])

    @check_if_not_connected
    def get_observation(self) -> dict[str, float | np.ndarray]:
        """Where the joints are, as encoders tell it, and what the cameras see."""
        values = self.units.read(so101.positions(self.scene))
        seen = dict(zip(self._motors, values.tolist(), strict=True))
        return seen | {name: camera.read_latest() for name, camera in self.cameras.items()}

    @check_if_not_connected
    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Move towards the targets for one control period; joints that are not named keep theirs.

        Returns what was sent: the targets as far from the joints as `max_relative_target` allows. As on the real arm,
        a joint stops at the end of its range all the same.

        Raises:
            ValueError: a target that is not finite, or of no joint; nothing is sent then.
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
        """End the scene and the cameras."""
        for camera in self.cameras.values():
            if camera.is_connected:
                camera.disconnect()
        if self.scene is not None:
            self.scene.close()
        self.scene = None


class SimulatedTime:
    """The time of the simulated robot, which passes while it is commanded; for a loop there is nothing to wait for.

    Each look at the clock takes a tenth of a microsecond, until the next command, so that no two moments are the same.
    """

    LOOK_S = 1e-7

    def __init__(self, robot):
        """`robot.time_s`: how long it has been commanded."""
        self._robot, self._at, self._looked = robot, 0.0, 0.0

    def monotonic(self) -> float:
        """Seconds."""
        self._looked = self.LOOK_S + (self._looked if self._robot.time_s == self._at else 0.0)
        self._at = self._robot.time_s
        return self._at + self._looked

    def sleep(self, seconds: float) -> None:
        """Nothing."""
