"""The keys of a command as its dataclasses (`worldmodel.strict`), with what the simulation refuses of them."""

from sim.impossible import Impossible
from worldmodel import strict
from worldmodel.strict import ConfigError


def build(cls: type, data: dict, where: str = ""):
    """The dataclass `cls` from nested plain data. Raises ConfigError naming the full key, which begins with `where`."""
    try:
        return strict.build(cls, data, where)
    except Impossible as error:
        raise ConfigError(str(error)) from error
