"""LeRobot's teleoperators by their type, those of installed plug-ins too."""

import importlib
import pkgutil

import draccus
from lerobot import teleoperators
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.import_utils import register_third_party_plugins


def teleoperator(keys: dict) -> Teleoperator:
    """The teleoperator that `keys` say, `type` among them; empty ones stay LeRobot's. Raises ValueError."""
    given = {key: value for key, value in keys.items() if value not in ("", None)}
    if given["type"] not in TeleoperatorConfig.get_known_choices():
        for module in pkgutil.iter_modules(teleoperators.__path__, f"{teleoperators.__name__}."):
            if module.ispkg:
                importlib.import_module(module.name)
        register_third_party_plugins()
    known = TeleoperatorConfig.get_known_choices()
    if given["type"] not in known:
        raise ValueError(f"teleop.type={given['type']}: one of {', '.join(sorted(known))}")
    try:
        return make_teleoperator_from_config(draccus.decode(TeleoperatorConfig, given))
    except (draccus.utils.DecodingError, TypeError) as error:
        raise ValueError(f"teleop: {' '.join(str(error).split())}") from error
