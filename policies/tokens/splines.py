"""Clamped uniform B-splines over [0, 1]: evaluation, derivatives, knots, and continuity with a preceding curve.

A curve is given by control points c (K, ...) and a degree p < K: y(t) = sum_i N_i(t) c_i. It begins at c_0, ends at
c_{K-1} and lies in the convex hull of its control points. Its r-th derivative is a curve of degree p - r, whose control
points are differences of c. Bounds on control points thus bound position, and bounds on differences bound the rate.
Source: de Boor 1978, A Practical Guide to Splines; scipy.interpolate.BSpline evaluates them.
"""

from functools import cache

import numpy as np
from scipy.interpolate import BSpline


@cache
def knots(count: int, degree: int) -> np.ndarray:
    """Return the read-only knot vector (count + degree + 1,) on [0, 1], with `degree` + 1 equal knots at either end.

    Raises ValueError unless 0 <= degree < count.
    """
    if not 0 <= degree < count:
        raise ValueError(f"degree={degree}: 0 to {count - 1} for {count} control points")
    inner = np.linspace(0, 1, count - degree + 1)
    result = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    result.flags.writeable = False
    return result


def midpoints(length: int) -> np.ndarray:
    """Return the times of a token's control steps (length,) on its curve: step i is at (i + 1/2) / length.

    The last step of a token and the first of the next are then one step apart, like any other neighbours.
    """
    return (np.arange(length) + 0.5) / length


def ends(length: int) -> np.ndarray:
    """Return the times (length,), (i + 1) / length, of control steps on a curve that begins one step before them."""
    return (np.arange(length) + 1) / length


def design(at: np.ndarray, count: int, degree: int, derivative: int = 0) -> np.ndarray:
    """Return the matrix (len(at), count) from control points to the `derivative`-th derivative at times `at`.

    With `derivative` 0 its rows are non-negative and sum to 1. Time is in units of the whole token; times outside
    [0, 1] are clipped.
    """
    places = np.clip(np.asarray(at, dtype=float), 0, 1)
    if derivative == 0:
        return BSpline.design_matrix(places, knots(count, degree), degree).toarray()
    if derivative > degree:
        return np.zeros((len(places), count))
    lower = design(places, count - derivative, degree - derivative)
    return lower @ differences(count, degree, derivative)


def gaps(count: int, degree: int) -> np.ndarray:
    """Return k_{i+p+1} - k_{i+1} (count - 1,): the span of the curve over which control point i gives way to i + 1."""
    k = knots(count, degree)
    return k[degree + 1 : count + degree] - k[1:count]


def differences(count: int, degree: int, order: int = 1) -> np.ndarray:
    """Return the matrix (count - order, count) from control points to those of the `order`-th derivative.

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
    """Return the first control points (1 or 2, ...) of a curve that begins at `value` (...), and `rate` (...) if given.

    `rate` is per whole token. With the last value of the preceding curve the join is C0, with its last rate as well C1.
    Raises ValueError for a rate with degree 0.
    """
    if rate is None:
        return np.stack([value])
    if degree < 1:
        raise ValueError("degree=0: a piecewise constant curve has no rate to begin with")
    return np.stack([value, value + np.asarray(rate) * gaps(count, degree)[0] / degree])


def fit_from(start: np.ndarray, values: np.ndarray, count: int, degree: int) -> np.ndarray:
    """Return the control points (..., count, D) of the least-squares curves from `start` (..., D) through `values`.

    `values` (..., T, D) are those at the `ends` of T control steps.
    """
    weights = design(ends(values.shape[-2]), count, degree)
    first = start[..., None, :]
    return np.concatenate([first, np.linalg.pinv(weights[:, 1:]) @ (values - weights[:, :1] * first)], axis=-2)
