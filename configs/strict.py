"""`worldmodel.strict` for a command's keys, with the simulation's errors turned into ConfigError, too."""

from sim import InvalidValue
from worldmodel import strict
from worldmodel.strict import ConfigError


def build[T](cls: type[T], data: dict, where: str = "") -> T:
    """Build the dataclass `cls` from nested plain data.

    Raises ConfigError naming the full key, which begins with `where`.
    """
    try:
        return strict.build(cls, data, where)
    except InvalidValue as error:
        raise ConfigError(str(error)) from error
