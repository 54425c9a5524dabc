"""LeRobot teleoperators from a command's options."""

import draccus
from lerobot import teleoperators
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config

from robot.lerobot_types import decoded
from worldmodel.mistakes import Mistake


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
