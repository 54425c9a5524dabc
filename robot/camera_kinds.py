"""LeRobot camera configurations from a command's options."""

from collections.abc import Mapping

from lerobot import cameras
from lerobot.cameras import CameraConfig

from robot.lerobot_types import decoded
from worldmodel.mistakes import Mistake


def configured(keys: Mapping[str, dict]) -> dict[str, CameraConfig]:
    """Return the configuration of each camera by name. Raises ValueError, in one line, for an invalid one."""
    return {name: _configured(f"robot_cameras.{name}", value) for name, value in keys.items()}


def _configured(where: str, keys: dict) -> CameraConfig:
    if not isinstance(keys, Mapping) or not isinstance(keys.get("type"), str):
        raise Mistake(f"{where}={keys}: its type and what that needs, e.g. {{type:opencv,index_or_path:0}}")
    return decoded(CameraConfig, cameras, keys, where)
