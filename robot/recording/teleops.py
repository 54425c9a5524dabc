"""LeRobot's teleoperators by what a command's keys say of them."""

from lerobot import teleoperators
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config

from robot.kinds import decoded


def teleoperator(keys: dict) -> Teleoperator:
    """The teleoperator that `keys` say, `type` among them; empty ones stay LeRobot's. Raises ValueError."""
    given = {key: value for key, value in keys.items() if value not in ("", None)}
    config = decoded(TeleoperatorConfig, teleoperators, given, "teleop")
    try:
        return make_teleoperator_from_config(config)
    except TypeError as error:
        raise ValueError(f"teleop: {' '.join(str(error).split())}") from error
