"""Clamped uniform B-splines over [0, 1]: evaluation, derivatives, knots, and what ties one curve to the one before.

A curve is control points c (K, ...) and a degree p < K: y(t) = sum_i N_i(t) c_i. It begins at c_0 and ends at c_{K-1},
and lies in the hull of its control points. Its r-th derivative is a curve of degree p - r, whose control points are
differences of c: so bounds on control points bound position, and bounds on their differences bound the rate.
Source: de Boor 1978, A Practical Guide to Splines; scipy.interpolate.BSpline evaluates them.
"""

from functools import cache

import numpy as np
from scipy.interpolate import BSpline


@cache
def knots(count: int, degree: int) -> np.ndarray:
    """The knot vector (count + degree + 1,) on [0, 1], with `degree` + 1 equal knots at either end; read-only.

    Raises ValueError unless 0 <= degree < count.
    """
    if not 0 <= degree < count:
        raise ValueError(f"degree={degree}: 0 to {count - 1} for {count} control points")
    inner = np.linspace(0, 1, count - degree + 1)
    result = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    result.flags.writeable = False
    return result


def midpoints(length: int) -> np.ndarray:
    """Where the control steps (length,) of a token lie on its curve: step i at (i + 1/2) / length.

    The last step of a token and the first of the next are then one step apart, like any other two.
    """
    return (np.arange(length) + 0.5) / length


def ends(length: int) -> np.ndarray:
    """Where the control steps (length,) lie on a curve that begins one step before the first: at (i + 1) / length."""
    return (np.arange(length) + 1) / length


def design(at: np.ndarray, count: int, degree: int, derivative: int = 0) -> np.ndarray:
    """The matrix (len(at), count) from control points to the curve's `derivative`-th derivative at times in [0, 1].

    With `derivative` 0 its rows are non-negative and sum to 1. Time is in units of the whole token.
    """
    places = np.clip(np.asarray(at, dtype=float), 0, 1)
    if derivative == 0:
        return BSpline.design_matrix(places, knots(count, degree), degree).toarray()
    if derivative > degree:
        return np.zeros((len(places), count))
    lower = design(places, count - derivative, degree - derivative)
    return lower @ differences(count, degree, derivative)


def gaps(count: int, degree: int) -> np.ndarray:
    """k_{i+p+1} - k_{i+1} (count - 1,): over which stretch of the curve control point i gives way to the next."""
    k = knots(count, degree)
    return k[degree + 1 : count + degree] - k[1:count]


def differences(count: int, degree: int, order: int = 1) -> np.ndarray:
    """The matrix (count - order, count) from control points to those of the `order`-th derivative.

    Row i of order 1: p (c_{i+1} - c_i) / (k_{i+p+1} - k_{i+1}), p the degree and k the knots (de Boor 1978, ch. X).
    Raises ValueError for an order above the degree.
    """
    if order > degree:
        raise ValueError(f"order={order}: at most the degree, {degree}")
    if order == 0:
        return np.eye(count)
    first = degree * (np.eye(count)[1:] - np.eye(count)[:-1]) / gaps(count, degree)[:, None]
    return differences(count - 1, degree - 1, order - 1) @ first


def beginning(value: np.ndarray, rate: np.ndarray | None, count: int, degree: int) -> np.ndarray:
    """The first control points (1 or 2, ...) of a curve that begins at `value` (...) and, if given, with `rate` (...).

    `rate` is per whole token. Tied so, a curve continues the one before: C0 from its last value, C1 from its last rate.
    """
    if rate is None:
        return np.stack([value])
    if degree < 1:
        raise ValueError("degree=0: a piecewise constant curve has no rate to begin with")
    return np.stack([value, value + np.asarray(rate) * gaps(count, degree)[0] / degree])
