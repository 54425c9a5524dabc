"""Numbers that somebody gave."""

import numpy as np

from sim.impossible import Impossible


def finite(name: str, value: object, size: int = 1) -> np.ndarray:
    """`value` as so many finite numbers, (size,). Raises Impossible for anything else, whatever it is."""
    try:
        array = np.asarray(value, float).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        array = np.full(0, np.nan)
    if array.size == size and np.isfinite(array).all():
        return array
    given = str(value)
    said = given if len(given) <= 60 else f"{given[:60]}..."
    raise Impossible(f"{name}={said}: {f'{size} finite numbers' if size > 1 else 'a finite number'}")
