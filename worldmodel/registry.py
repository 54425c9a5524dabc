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
    tool        tools                         f(typed parameters) -> str: what it did   (`policies.tools`)
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError, in_one_line

BUILT_IN: dict[str, tuple[str, ...]] = {
    "loss": ("readable",),
    "encoder": ("default",),
    "planner": ("mppi",),
    "noise": ("white", "pink", "mixed"),
    "sampler": ("uniform",),
    "wrapper": (),
    "tool": (),
}
"""For each kind, the names that need no registration."""
TAKEN = {"loss": ("agreement", "consistency", "continue", "contrast", "nan", "policy", "reward", "value")}
"""Names that would be taken for something else: a loss has the column `loss_<name>` in metrics.csv."""
ARGUMENTS = {
    "loss": "inputs",
    "encoder": "key, shape, config, dtype",
    "planner": "search, root, warm_start, noise, config, late",
    "noise": "generator",
    "sampler": "replay, batch, horizon, length, generator, demonstrated",
    "wrapper": "env",
}
"""What each kind is called with, by position."""
CALLED = ("loss", "planner", "sampler", "tool")
"""Kinds that are called for their result, where a class would make an object instead."""
loaded: list[str] = []  # the modules that `load` imported, which a process that makes environments imports, too
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in BUILT_IN}


def register[T: Callable](kind: str, name: str, own: T | None = None) -> Any:
    """Make `own` known as `name`, in place of an earlier one, or return a decorator that does. Raises UserError."""
    if kind not in BUILT_IN:
        raise UserError(f"register({kind!r}, ...): one of {', '.join(BUILT_IN)}")
    if not name.isidentifier() or name in (*BUILT_IN[kind], *TAKEN.get(kind, ())):
        taken = (*BUILT_IN[kind], *TAKEN.get(kind, ()))
        raise UserError(f"register({kind!r}, {name!r}): an identifier{' other than ' * bool(taken)}{', '.join(taken)}")
    if own is not None and not callable(own):
        raise UserError(f"register({kind!r}, {name!r}): {own!r} cannot be called")

    def known(function: T) -> T:
        if kind in CALLED and isinstance(function, type):
            what = f"{function.__name__} is a class; a function, or an instance of it with __call__"
            raise UserError(f"register({kind!r}, {name!r}): {what}")
        if called := ARGUMENTS.get(kind):
            try:
                with suppress(ValueError):  # a builtin has no signature to look at
                    inspect.signature(function).bind(*called.split(", "))
            except TypeError as error:
                what = f"it is called with ({called}); {in_one_line(error)}"
                raise UserError(f"register({kind!r}, {name!r}): {what}") from None
        _registered[kind][name] = function
        return function

    return known if own is None else known(own)


def check(kind: str, name: str, key: str) -> None:
    """Raise UserError, naming the setting `key`, unless `name` is built in or registered."""
    names = [*BUILT_IN[kind], *_registered[kind]]
    if name not in names:
        known = f"one of {', '.join(names)}" if names else "none is registered"
        raise UserError(f"{key}={name}: {known}; plugins=[my.py] adds those of my.py")


def find(kind: str, name: str) -> Any:
    """Return what is registered as `name`, or None if that is built in. Raises UserError for an unknown name."""
    check(kind, name, kind)
    return _registered[kind].get(name)


def blamed(error: BaseException, **more: object) -> str:
    """Return kind and name of the registered part, or the name in `more`, whose code raised an error; "" if none."""
    frames = [(frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    frames += re.findall(r'File "(.+?)", line \d+, in (\w+)', str(error))
    parts = {f"{kind} {name}": part for kind, named in _registered.items() for name, part in named.items()} | more
    places = {}
    for name, part in parts.items():
        own = [part, *vars(part if isinstance(part, type) else type(part)).values()]
        codes = [each.__code__ for each in own if hasattr(each, "__code__")]
        places[name] = [(code.co_filename, code.co_name) for code in codes]
    for frame in frames:  # the outermost of the user's decides; where it is a net that a part made, by its file alone
        near = [name for name, own in places.items() if any(file == frame[0] for file, _ in own)]
        if near:
            return " or ".join([name for name in near if frame in places[name]] or near)
    return ""


def load(plugins: object) -> None:
    """Import modules, each by name or by its file's path, once. Raises UserError for one that fails."""
    for plugin in plugins if isinstance(plugins, list | tuple) else ():
        if not isinstance(plugin, str):
            return
        name = place(plugin)
        file = Path(name) if plugin.endswith(".py") else None
        if name in loaded:
            continue
        if file is not None and not file.is_file():
            raise UserError(f"plugins=[{plugin}]: no such file")
        try:
            if file is None:
                importlib.import_module(plugin)
            else:
                _import(file)
        except ModuleNotFoundError as error:
            if file is not None or not f"{plugin}.".startswith(f"{error.name}."):
                raise UserError(f"plugins=[{plugin}]: {_where(error)}{in_one_line(error)}") from error
            raise UserError(f"plugins=[{plugin}]: no such module; the path of a file ends in .py") from error
        except (Exception, SystemExit) as error:  # of whatever the module does
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            what = f"{_where(error)}{kind}{in_one_line(error)}"
            raise UserError(f"plugins=[{plugin}]: {what}") from error
        loaded.append(name)


def place(plugin: str) -> str:
    """Return what `loaded` holds of a plugin: a module's name, or the whole path of a file, which ends in .py."""
    return str(Path(plugin).resolve()) if plugin.endswith(".py") else plugin


def _import(file: Path) -> None:
    """Import a module by its file."""
    tag = hashlib.sha256(str(file).encode()).hexdigest()[:8]  # another file may have the same name
    spec = importlib.util.spec_from_file_location(f"semagram_plugin_{file.stem}_{tag}", file)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise


def _where(error: BaseException) -> str:
    """Return where an error was raised."""
    if isinstance(error, SyntaxError):  # says itself where
        return ""
    last = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__][-1]
    return f"{Path(last.filename).name}, line {last.lineno}: "
