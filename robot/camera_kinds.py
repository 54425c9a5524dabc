"""LeRobot's cameras by what a command's keys say of them, those of installed plug-ins too."""

import importlib
import pkgutil
from collections.abc import Mapping

import draccus
from lerobot import cameras
from lerobot.cameras import CameraConfig
from lerobot.utils.import_utils import register_third_party_plugins


def configured(keys: Mapping[str, dict]) -> dict[str, CameraConfig]:
    """The configuration of each camera by its name. Raises ValueError, in one line, for one that cannot be."""
    return {name: _configured(name, value) for name, value in keys.items()}


def _configured(name: str, keys: dict) -> CameraConfig:
    where = f"robot_cameras.{name}"
    if not isinstance(keys, Mapping) or not isinstance(keys.get("type"), str):
        raise ValueError(f"{where}={keys}: its type and what that needs, e.g. {{type:opencv,index_or_path:0}}")
    if keys["type"] not in CameraConfig.get_known_choices():
        for module in pkgutil.iter_modules(cameras.__path__, f"{cameras.__name__}."):
            if module.ispkg:
                importlib.import_module(module.name)
        register_third_party_plugins()
    known = CameraConfig.get_known_choices()
    if keys["type"] not in known:
        raise ValueError(f"{where}.type={keys['type']}: one of {', '.join(sorted(known))}")
    try:
        return draccus.decode(CameraConfig, dict(keys))
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
