"""What a user's own modules add by name: the only place where a name in a setting becomes code.

A setting can choose among what is built in and what was registered, nothing else; no name is ever imported from a
checkpoint or a dataset. Must not import torch: settings are checked against it.

    kind        the setting that names it     what is registered
    loss        learning.losses={name: 0.1}   f(LossInputs) -> Tensor ()        (`worldmodel.losses`)
    encoder     model.encoder                 f(key, shape, config, dtype) -> nn.Module or None   (`worldmodel.encoder`)
    planner     planner.algorithm             a function with the arguments of `worldmodel.mppi.mppi`
    noise       noise                         f(generator) -> an object with the methods of `policies.noise.Noise`
    sampler     replay.sampler                a function with the arguments of `worldmodel.replay.sample_windows`
    wrapper     task.wrappers                 f(gymnasium.Env) -> gymnasium.Env
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError

BUILT_IN: dict[str, tuple[str, ...]] = {
    "loss": (),
    "encoder": ("default",),
    "planner": ("mppi",),
    "noise": ("white", "pink", "mixed"),
    "sampler": ("uniform",),
    "wrapper": (),
}
"""For each kind, the names that need no registration."""
loaded: list[str] = []
"""The modules that `load` imported, which a process that makes environments imports, too."""
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in BUILT_IN}


def register[T: Callable](kind: str, name: str, own: T | None = None) -> Any:
    """Make `own` known as `name`, or return a decorator that does. A later one of the same name replaces it.

    Raises UserError for an unknown kind or a name that is built in or no identifier.
    """
    if kind not in BUILT_IN:
        raise UserError(f"register({kind!r}, ...): one of {', '.join(BUILT_IN)}")
    if not name.isidentifier() or name in BUILT_IN[kind]:
        raise UserError(f"register({kind!r}, {name!r}): an identifier other than {', '.join(BUILT_IN[kind]) or 'none'}")

    def known(function: T) -> T:
        _registered[kind][name] = function
        return function

    return known if own is None else known(own)


def check(kind: str, name: str, key: str) -> None:
    """Raise UserError, naming the setting `key`, unless `name` is built in or registered."""
    names = [*BUILT_IN[kind], *_registered[kind]]
    if name not in names:
        raise UserError(f"{key}={name}: one of {', '.join(names) or 'none yet'}; plugins=[my.py] adds those of my.py")


def find(kind: str, name: str) -> Any:
    """Return what is registered as `name`, or None if that is built in. Raises UserError for an unknown name."""
    check(kind, name, kind)
    return _registered[kind].get(name)


def load(plugins: object) -> None:
    """Import modules, each by its name or by the path of its file, once. Raises UserError for one that is not there.

    Anything but a list of texts is left for the check of the settings to refuse.
    """
    for plugin in plugins if isinstance(plugins, list | tuple) else ():
        if not isinstance(plugin, str):
            return
        file = Path(plugin).resolve() if plugin.endswith(".py") else None
        name = plugin if file is None else str(file)
        if name in loaded:
            continue
        if file is None:
            try:
                importlib.import_module(plugin)
            except ModuleNotFoundError as error:
                if not f"{plugin}.".startswith(f"{error.name}."):
                    raise
                raise UserError(f"plugins=[{plugin}]: no such module; the path of a file ends in .py") from error
        elif file.is_file():
            spec = importlib.util.spec_from_file_location(f"semagram_plugin_{file.stem}", file)
            assert spec and spec.loader
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            raise UserError(f"plugins=[{plugin}]: no such file")
        loaded.append(name)
