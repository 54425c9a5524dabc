"""Stopping in time: how far a rate carries, and how fast one may go towards an edge and still stop before it.

A command moves c' = c + v' dt, with |v' - v| <= A dt. Braking takes v' = v - A dt towards 0. Each such step moves
v' dt <= (v^2 - v'^2) / 2A, so braking from v moves at most v^2 / 2A in all, *whatever* the lengths dt of its steps.
The greatest v' for which v' dt + v'^2 / 2A <= room, the room before an edge, is therefore one that can always still
be stopped before it. Braking keeps that: if v^2 / 2A <= room before a step, then after it too.
All are element-wise over joints: rates (D,) in units/s, accelerations (D,) in units/s^2, dt > 0 in seconds.
"""

import numpy as np


def stopping(rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """How far, with its sign, full braking still moves: v |v| / 2A (D,), the bound for any lengths of steps."""
    return rate * np.abs(rate) / (2 * acceleration)


def stoppable(room: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """The greatest rate (D,) towards an edge `room` >= 0 away, held for `dt`, that can then be stopped before it.

    A (sqrt(dt^2 + 2 room / A) - dt), in the form that loses no digits when the room is small. It is below room / dt.
    """
    return 2 * room / (dt + np.sqrt(dt * dt + 2 * room / acceleration))


def braked(rate: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """The rate (D,) after `dt` of full braking: closer to 0 by A dt, and 0 once that passes it."""
    return np.sign(rate) * np.maximum(np.abs(rate) - acceleration * dt, 0.0)


def time_to_rest(rate: np.ndarray, acceleration: np.ndarray) -> float:
    """Seconds until full braking has stopped every joint."""
    return float(np.max(np.abs(rate) / acceleration, initial=0.0))
