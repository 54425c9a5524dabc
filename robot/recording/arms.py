"""The arm that is recorded: simulated, at the end of a wire, or the twin; each behind the gate."""

import time
from pathlib import Path

from lerobot.cameras import CameraConfig
from lerobot.robots import Robot
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from robot import limits
from robot.config_sim_camera import SimCameraConfig
from robot.config_so101_sim import SO101SimConfig
from robot.gate import Gate
from robot.gated import GatedRobot
from robot.recording.pace import SimulatedTime
from robot.recording.settings import CAMERAS, TWIN, RecordConfig
from robot.so101_sim import SO101Sim
from sim.tip import Tip


def arm(config: RecordConfig) -> tuple[GatedRobot, object]:
    """The robot, not yet connected, and the clock by which it lives. Raises ValueError."""
    robot = _simulated(config) if config.simulated else _wired(config)
    clock = time if config.paced else SimulatedTime(robot)
    calibration = None if config.simulated else robot.calibration
    gate = Gate(limits.so101(config.preset, calibration), Tip())
    return GatedRobot(robot, gate, stop_on_fault=True, clock=clock), clock


def _simulated(config: RecordConfig) -> Robot:
    size = {"fps": config.control_hz, **config.camera}
    cameras = {name: SimCameraConfig(view=CAMERAS[name], **size) for name in config.cameras}
    return SO101Sim(SO101SimConfig(task=config.task_name, control_hz=float(config.control_hz), cameras=cameras))


def _wired(config: RecordConfig) -> Robot:
    import draccus  # noqa: PLC0415

    port, name, folder = config.port, config.id, config.calibration_dir
    if config.robot == TWIN:
        port_file = Path(config.port_file)
        if not port_file.exists():
            raise ValueError(f"port_file={port_file}: no such file; start `semagram-twin port_file={port_file}` first")
        port, name, folder = port_file.read_text().strip(), "twin", str(port_file.parent)
    cameras = {key: draccus.decode(CameraConfig, value) for key, value in config.robot_cameras.items()}
    robot = SO101Follower(
        SO101FollowerConfig(port=port, id=name, calibration_dir=Path(folder) if folder else None, cameras=cameras)
    )
    if not robot.calibration:
        raise ValueError(
            f"{robot.calibration_fpath}: no calibration of this arm; "
            f"lerobot-calibrate --robot.type=so101_follower --robot.port={port} --robot.id={name} makes it"
        )
    return robot
