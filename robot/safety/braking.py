"""Stopping in time: how far a rate carries, and how fast a joint may approach an edge and still stop before it.

A command moves by c' = c + v' dt, with |v' - v| <= A dt. Braking takes v' = v - A dt towards 0. Each such step moves v'
dt <= (v^2 - v'^2) / 2A, so braking from v moves at most v^2 / 2A in total, *whatever* the lengths dt of its steps.
Hence the greatest v' for which v' dt + v'^2 / 2A <= room, the distance to the edge, is one from which it is always
still possible to stop before the edge. Braking preserves this: if v^2 / 2A <= room before a step, then also after it.
All functions work element-wise on joints: rates (D,) in units/s, accelerations (D,) in units/s^2, dt > 0 in seconds.
"""

import numpy as np


def stopping(rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """Return the signed distance that full braking still moves: v |v| / 2A (D,), the bound for any step lengths."""
    return rate * np.abs(rate) / (2 * acceleration)


def stoppable(room: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """Return the greatest rate (D,) towards an edge `room` >= 0 away that, held for `dt`, still stops before it.

    A (sqrt(dt^2 + 2 room / A) - dt), in the form that loses no precision when the room is small. It is below room / dt.
    """
    return 2 * room / (dt + np.sqrt(dt * dt + 2 * room / acceleration))


def braked(rate: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """Return the rate (D,) after `dt` of full braking: closer to 0 by A dt, and 0 rather than past it."""
    return np.sign(rate) * np.maximum(np.abs(rate) - acceleration * dt, 0.0)


def time_to_rest(rate: np.ndarray, acceleration: np.ndarray) -> float:
    """Return the seconds until full braking has stopped every joint."""
    return float(np.max(np.abs(rate) / acceleration, initial=0.0))
