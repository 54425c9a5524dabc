"""The SO-101 as LeRobot robots: moving only where it is sent, the same behind the safety gate, and simulated.

so101-nexus has a simulated robot, too (`SimSOFollower`). It is not used because its observations do not match its
features (it adds the scene's state), it asks for a calibration file, and its frames take a quarter of a second without
a GPU.
"""

import logging
import os
import time
from functools import cached_property

import numpy as np
from lerobot.cameras import Camera
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.robots.robot import Robot
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from lerobot.utils.errors import DeviceNotConnectedError

from policies.storage.folders import claimed
from robot.config_so101 import SemagramSO101Config, SimCameraConfig, SO101SimConfig
from robot.safety.gate import Gate
from robot.safety.gated import GatedRobot, noted
from robot.safety.stops import FaultKind, RobotFault
from robot.ticks import Clock
from sim.renderer import Canvas
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS, Units
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)


class StayingBus(FeetechMotorsBus):
    """A motors bus with exclusive use of its port, on which motors stiffen where they are, not at an old goal."""

    def connect(self, handshake: bool = True) -> None:
        """Connect. Raises ConnectionError if another program has the port: packets of two would be garbled."""
        if not self.is_connected:
            self._ask()
        super().connect(handshake)
        try:
            self._claim(self.port_handler.ser.fileno())  # held until the port is closed
        except ConnectionError:
            self.port_handler.closePort()  # not `disconnect`, which would release the other program's arm
            raise

    def _ask(self) -> None:
        """Raise ConnectionError if the port is taken, before the driver sets it up, which would disturb its user."""
        try:
            port = os.open(self.port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return  # the driver reports what is wrong with the port
        try:
            self._claim(port)
        finally:
            os.close(port)

    def _claim(self, port: int) -> None:
        if not claimed(port):
            raise ConnectionError(f"{self.port}: another program moves the arm at this port; end it first")

    def enable_torque(self, motors: str | list[str] | None = None, num_retry: int = 0) -> None:
        """Set each motor's goal to its present position, then enable its torque."""
        for motor in self._get_motors_list(motors):
            place = self.read("Present_Position", motor, normalize=False, num_retry=num_retry)
            self.write("Goal_Position", motor, place, normalize=False, num_retry=num_retry)
            super().enable_torque(motor, num_retry)


class SO101(SO101Follower):
    """LeRobot's SO-101, which stiffens only where it is, and only if its servos hold the configured calibration."""

    bus: StayingBus

    def __init__(self, config: SO101FollowerConfig):
        """Read the calibration. Raises ValueError if there is no file with one: LeRobot would prompt for it."""
        super().__init__(config)
        if not self.calibration:
            raise UserError(
                f"id={self.id}: no calibration at {self.calibration_fpath}; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.port={config.port} --robot.id={self.id}"
            )
        self.bus = StayingBus(config.port, self.bus.motors, self.calibration)

    def connect(self, calibrate: bool = True) -> None:
        """Connect. Never calibrates, whatever `calibrate` is: the gate's limits derive from the present calibration."""
        super().connect(calibrate=False)

    def configure(self) -> None:
        """Set up the servos, then enable their torque. Raises ValueError if they hold another calibration."""
        if not self.is_calibrated:
            raise UserError(
                f"{self.calibration_fpath}: not the calibration that the arm's servos hold; "
                f"lerobot-calibrate --robot.type=so101_follower --robot.id={self.id} --robot.port={self.config.port}"
            )
        super().configure()


class SemagramSO101(GatedRobot):
    """The gated arm for loops that know nothing of gates: LeRobot's own commands (`--robot.type=semagram_so101`).

    A fault brakes the arm to rest and raises RobotFault. These loops pause without notice, to save an episode or to
    compute an action; the servos hold their last goal then. After more than the limits' `loop_s`, the arm goes on from
    rest where it is, as after `rest`, and a warning is logged.
    """

    config_class = SemagramSO101Config

    def __init__(self, config: SemagramSO101Config, clock: Clock = time):
        """Read the calibration. Raises ValueError without one, or for settings that the gate does not allow."""
        arm = SO101(config)
        super().__init__(arm, Gate(config.limits_of(arm.calibration), Fingertip()), True, clock)
        self._moved_at = clock.monotonic()

    def get_observation(self) -> dict:
        """Return the arm's observation; see GatedRobot."""
        self._resume()
        return super().get_observation()

    def send_action(self, action: dict | np.ndarray, at: float | None = None) -> dict:
        """Send as much of the action as the gate lets through; see GatedRobot."""
        with self.held():
            self._resume()
            sent = super().send_action(action, at)
            self._moved_at = self._time.monotonic()
            return sent

    def disconnect(self) -> None:
        """Shut down; see GatedRobot. After a fault, the errors met are notes on it: the loop has raised it already."""
        try:
            super().disconnect()
        except ExceptionGroup as errors:
            if self.fault is None or self.fault.kind is FaultKind.STOP:
                raise
            raise noted(RobotFault(self.fault), list(errors.exceptions)) from errors

    def _resume(self) -> None:
        """Start anew where the arm is if the last command is too long ago."""
        now = self._time.monotonic()
        paused_s = now - self._moved_at
        if paused_s <= self.gate.limits.loop_s or self.fault is not None:
            return
        if self.command is not None:
            logger.warning("%s: no command for %.2f s; it goes on from rest, where it is", self, paused_s)
        self.forget()
        self._moved_at = now


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
    far; `seen`: so101-nexus's observation (S,) and the joint targets (6,) in rad when it was last read.
    """

    config_class = SO101SimConfig
    name = "semagram_so101_sim"

    def __init__(self, config: SO101SimConfig):
        super().__init__(config)
        self.config = config
        self.cameras = make_cameras_from_configs(config.cameras)
        self._scene: so101.VariedArm | None = None
        self.seen = np.zeros(0), np.zeros(6)
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
        self.units = Units(*so101.limits(self.scene))
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
        self.seen = self.scene.state(), self.scene.commanded
        values = self.units.read(so101.positions(self.scene))
        joints = dict(zip(self._motors, values.tolist(), strict=True))
        return joints | {name: camera.read_latest() for name, camera in self.cameras.items()}

    @check_if_not_connected
    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Move towards the targets for one control period; joints that are not named keep theirs.

        Returns what was sent. As on the real arm, a joint still stops at the end of its range.

        Raises ValueError for a target that is not finite or belongs to no joint; nothing is sent then.
        """
        goals = {key.removesuffix(".pos"): float(value) for key, value in action.items() if key.endswith(".pos")}
        for joint, value in goals.items():
            if joint not in JOINTS:
                raise ValueError(f"{joint}.pos: no such joint; they are {', '.join(JOINTS)}")
            if not np.isfinite(value):
                raise ValueError(f"{joint}.pos={value}: not a finite target")
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
