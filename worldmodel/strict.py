"""Settings are strict: a misspelt key, a wrong type and a value out of range are errors, each in one line."""

import difflib
import math
import types
import typing
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, field, fields, is_dataclass
from numbers import Integral, Real

from worldmodel.errors import UserError


class ConfigError(UserError):
    """Raised for an invalid key or value; the message is one line and says what would be valid."""


def build[T](cls: type[T], data: dict, where: str = "") -> T:
    """Build the dataclass `cls` from nested plain data, with strict types: 1 is not a bool and 5.0 is not an int.

    A missing key takes its default, so that settings saved before a key was added stay readable. Raises ConfigError
    naming the full key, which begins with `where`.
    """
    assert is_dataclass(cls)
    known = {f.name: f for f in fields(cls)}
    kinds = typing.get_type_hints(cls)
    for key in data:
        if key not in known:
            raise ConfigError(unknown(f"{where}{key}", [f"{where}{name}" for name in known]))
    values = {}
    for name, f in known.items():
        if name in data:
            values[name] = _value(kinds[name], data[name], f"{where}{name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}{name}: missing")
    try:
        return cls(**values)
    except ValueError as error:  # its own check of its values
        raise ConfigError(str(error)) from error


ELSEWHERE = {
    **dict.fromkeys(("env", "env_name", "environment"), "task"),
    **dict.fromkeys(("env_id", "gym_id"), "task.id"),
    **dict.fromkeys(("total_timesteps", "total_steps", "max_steps", "num_steps", "timesteps"), "steps"),
    **dict.fromkeys(("lr", "learning_rate"), "learning.learning_rate"),
    **dict.fromkeys(("num_envs", "n_envs"), "envs"),
    **dict.fromkeys(("wandb", "tensorboard", "logger", "use_wandb"), "track"),
    **dict.fromkeys(("save_video", "capture_video", "render"), "video"),
    **dict.fromkeys(("exp_name", "run_name", "work_dir", "output_dir", "logdir"), "hydra.run.dir"),
    **dict.fromkeys(("plugin", "import"), "plugins"),
    "seeds": "seed",
}
"""What other frameworks call our keys."""


def unknown(key: str, known: list[str]) -> str:
    """Return a one-line message about an unknown key, with the `known` keys that may have been meant."""
    if (own := ELSEWHERE.get(key)) and (own in known or own.startswith("hydra.")):
        return f"{key}: no such key; here it is {own}="
    group, _, leaf = key.rpartition(".")
    below = [f"{group}." if group else "", ""]
    within, top = (
        [b + k[len(b) :].partition(".")[0] for k in known if k.startswith(b) and k[:6] != "hydra."] for b in below
    )
    siblings = list(dict.fromkeys(within or top)) or known
    close = _alike(leaf, known, 1.0) or _alike(leaf, siblings, 0.6) or _alike(leaf, known, 0.8)
    hint = f"did you mean {' or '.join(close)}?" if close else f"valid here: {', '.join(siblings)}"
    return f"{key}: no such key; {hint}"


def _alike(leaf: str, keys: list[str], cutoff: float) -> list[str]:
    """Return up to three keys whose last part is at least `cutoff` similar to `leaf` (1: equal)."""
    parts = [key.rpartition(".")[2] for key in keys]
    names = difflib.get_close_matches(leaf, parts, n=3, cutoff=cutoff)
    return [key for key, part in zip(keys, parts, strict=True) if part in names][:3]


def _value(kind, value, where: str):
    if kind is typing.Any:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}={value}: a group of keys ({', '.join(f.name for f in fields(kind))})")
        return build(kind, value, f"{where}.")
    if isinstance(kind, types.UnionType):
        return _either(typing.get_args(kind), value, where)
    if typing.get_origin(kind) is dict:
        group = _value(dict, value, where)
        return {key: _value(typing.get_args(kind)[1], item, f"{where}.{key}") for key, item in group.items()}
    if (sequence := typing.get_origin(kind)) in (list, tuple):
        if not isinstance(value, list | tuple):
            one = typing.get_args(kind)[0]
            example = value if isinstance(value, one) else _EXAMPLES.get(one, "{...}")
            raise ConfigError(f"{where}={value}: a list, e.g. {where}=[{example}]")
        return sequence(_value(typing.get_args(kind)[0], item, where) for item in value)
    if kind is str and isinstance(value, bool):
        value = str(value).lower()  # compile=true arrives as a bool
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):  # if too large for a float: rejected below
            value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        whole = f", {value:.0f}" if kind is int and isinstance(value, float) and value.is_integer() else ""
        raise ConfigError(f"{where}={value}: {_NAMES[kind]}{whole}")
    if kind is float and value != value:
        raise ConfigError(f"{where}={value}: a number, not NaN")
    return value


def _either(kinds: tuple, value, where: str):
    """Convert the value to the first of several types that accepts it; the error is that of the last."""
    if value is None and type(None) in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not type(None))
    for kind in others:
        try:
            return _value(kind, value, where)
        except ConfigError:
            continue
    return _value(last, value, where)


_EXAMPLES = {str: "a,b", int: "1,2", float: "0.1,0.2"}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a group of keys"}


def ranged(
    default: float, low: float | None = None, above: float | None = None, high: float | None = None
) -> typing.Any:
    """Declare a setting by its default and its range: >= `low`, > `above`, <= `high`; `check_ranges` checks it."""
    return field(default=default, metadata={"range": (low, above, high)})


def one_of(default: str | None, choices: Iterable[str]) -> typing.Any:
    """Declare a setting by its default and the choices beside it; `check_ranges` checks it."""
    return field(default=default, metadata={"choices": tuple(choices)})


def check_ranges(prefix: str, config) -> None:
    """Raise ValueError, as `check`, unless every field that was declared with a range or choices has such a value."""
    for declared in fields(config):
        value, choices = getattr(config, declared.name), declared.metadata.get("choices")
        if choices and value not in (declared.default, *choices):
            raise UserError(f"{prefix}{declared.name}={value}: one of {', '.join(choices)}")
        if "range" in declared.metadata:
            check(prefix, config, declared.name, *declared.metadata["range"])


def check(
    prefix: str,
    config: object,
    names: str,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    why: str = "",
) -> None:
    """Raise ValueError unless every field in `names` is a finite number within the limits given.

    Limits: >= `low`, > `above`, <= `high`. A field declared as int must be an integer. `names` is space-separated.
    In the message `prefix` precedes the name (`planner.`) and `why` follows the range (` (planner.samples - 1)`).
    """
    whole = {f.name for f in fields(config) if f.type is int} if is_dataclass(config) else set()
    for name in names.split():
        value: float = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Integral if name in whole else Real):
            raise UserError(f"{prefix}{name}={value!r}: a {'whole ' if name in whole else ''}number")
        right = isinstance(value, int) or math.isfinite(value)
        right &= (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
        if not right:
            raise UserError(f"{prefix}{name}={value}: {_range(low, above, high, value)}{why}")


def _range(low: float | None, above: float | None, high: float | None, value: float) -> str:
    if low is not None and high is not None:
        return f"from {low} to {high}"
    words = [f"at least {low}" if low is not None else "", f"above {above}" if above is not None else ""]
    limits = ", ".join([*filter(None, words), *([f"at most {high}"] if high is not None else [])])
    if high is None and not (isinstance(value, int) or math.isfinite(value)):
        return f"finite, {limits}" if limits else "a finite number"
    return limits
