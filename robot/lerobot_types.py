"""LeRobot's devices from a command's options: cameras, teleoperators, also those of installed plug-ins."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

import draccus
from lerobot import cameras, teleoperators
from lerobot.cameras import CameraConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from worldmodel.mistakes import Mistake


def decoded[T: draccus.ChoiceRegistry](base: type[T], package: ModuleType, keys: Mapping, where: str) -> T:
    """Decode `keys`, including `type`, to a LeRobot configuration derived from `base`, whose types are in `package`.

    Raises ValueError, in one line that begins with `where`, for an unknown type or keys that it does not accept.
    """
    if keys["type"] not in base.get_known_choices():
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.ispkg:
                importlib.import_module(module.name)
        register_third_party_plugins()
    known = base.get_known_choices()
    if keys["type"] not in known:
        raise Mistake(f"{where}.type={keys['type']}: one of {', '.join(sorted(known))}")
    try:
        return draccus.decode(base, dict(keys))
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        raise Mistake(f"{where}: {' '.join(str(error).split())}") from error


def configured(keys: Mapping[str, dict]) -> dict[str, CameraConfig]:
    """Return the configuration of each camera by name. Raises ValueError, in one line, for an invalid one."""
    return {name: _configured(f"robot_cameras.{name}", value) for name, value in keys.items()}


def _configured(where: str, keys: dict) -> CameraConfig:
    if not isinstance(keys, Mapping) or not isinstance(keys.get("type"), str):
        raise Mistake(f"{where}={keys}: its type and what that needs, e.g. {{type:opencv,index_or_path:0}}")
    return decoded(CameraConfig, cameras, keys, where)


def teleoperator(keys: dict) -> Teleoperator:
    """Return the teleoperator that `keys`, including `type`, describe; empty ones keep LeRobot's default.

    Raises ValueError for an unknown type or options it does not accept.
    """
    given = {key: value for key, value in keys.items() if value not in ("", None)}
    config = decoded(TeleoperatorConfig, teleoperators, given, "teleop")
    try:
        return make_teleoperator_from_config(config)
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        raise Mistake(f"teleop: {' '.join(str(error).split())}") from error
