"""LeRobot's device types by name, including installed plug-ins; LeRobot itself does not import them."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

import draccus
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
