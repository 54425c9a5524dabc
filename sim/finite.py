"""Validation of numbers supplied from outside."""

import numpy as np

from sim.errors import InvalidValue


def finite(name: str, value: object, size: int = 1) -> np.ndarray:
    """Return `value` as a float array (size,) of finite numbers. Raises InvalidValue for anything else, of any type."""
    try:
        given = np.asarray(value)
    except ValueError:  # ragged lists
        given = np.empty(0)
    if given.dtype.kind in "iuf" and given.size == size and given.ndim <= 1 and np.isfinite(given).all():
        return given.astype(float).reshape(size)
    text = str(value)
    said = text if len(text) <= 60 else f"{text[:60]}..."
    raise InvalidValue(f"{name}={said}: {f'{size} finite numbers' if size > 1 else 'a finite number'}")
