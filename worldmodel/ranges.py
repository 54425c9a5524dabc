"""Range checks of settings: the one-line error names the full key and the valid range."""

import math
from dataclasses import fields, is_dataclass
from numbers import Integral, Real

from worldmodel.errors import UserError


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
