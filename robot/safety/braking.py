"""Stopping in time: before a joint's edge, and before the gripper's tip leaves its box.

A command moves by c' = c + v' dt, with |v' - v| <= A dt. Braking takes v' = v - A dt towards 0. Each such step moves v'
dt <= (v^2 - v'^2) / 2A, so braking from v moves at most v^2 / 2A in total, *whatever* the lengths dt of its steps.
Hence the greatest v' for which v' dt + v'^2 / 2A <= room, the distance to the edge, is one from which it is always
still possible to stop before the edge. Braking preserves this: if v^2 / 2A <= room before a step, then also after it.
All functions work element-wise on joints: rates (D,) in units/s, accelerations (D,) in units/s^2, dt > 0 in seconds.

The tip: braking moves joint j by at most d_j, so to anywhere between q and q + d. There the tip's position along an
axis is, by Taylor, p(q) + J u + u' H u / 2 for some u between 0 and d, and |H_ij| <= the lesser reach of joints i and
j: how far the tip can ever be from their axes. So it lies in p(q) + [sum_j min(J_j d_j, 0), sum_j max(J_j d_j, 0)] +-
d' R d / 2.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot.safety.limits import Box


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


class Arm(Protocol):
    """Forward kinematics of the tip, in the joints' own units."""

    @property
    def reach(self) -> np.ndarray:
        """The greatest possible distance (D,) of the tip from each joint's axis, in metres."""

    @property
    def radians(self) -> np.ndarray:
        """Radians (D,) per unit of each joint."""

    def place(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's position (3,) in metres, and its Jacobian (3, D) in metres per radian."""


@dataclass(frozen=True)
class Swept:
    """Where the tip can be while it brakes: bounds (3,) and (3,), and the Jacobian `change` (3, D), metres per unit."""

    low: np.ndarray
    high: np.ndarray
    change: np.ndarray


class Workspace:
    """The box, widened to where the tip started if that was outside; it narrows again as the tip comes in."""

    def __init__(self, box: Box, arm: Arm):
        self._arm, self._box_low, self._box_high = arm, box.low, box.high
        self._low, self._high = box.low, box.high
        self._curvature = np.minimum.outer(arm.reach, arm.reach) / 2

    def begin(self, joints: np.ndarray) -> None:
        """Start at rest at `joints` (D,)."""
        place, _ = self._arm.place(joints)
        self._low, self._high = np.minimum(self._box_low, place), np.maximum(self._box_high, place)

    def swept(self, joints: np.ndarray, stopping: np.ndarray) -> Swept:
        """Bound the tip's position while it brakes from `joints` (D,), each moving by at most `stopping` (D,)."""
        place, change = self._arm.place(joints)
        change = change * self._arm.radians
        parts, size = change * stopping, np.abs(stopping * self._arm.radians)
        bend = size @ self._curvature @ size
        return Swept(place + np.minimum(parts, 0).sum(1) - bend, place + np.maximum(parts, 0).sum(1) + bend, change)

    def holds(self, swept: Swept) -> bool:
        """Return whether those bounds are inside the box."""
        return bool((swept.low >= self._low).all() and (swept.high <= self._high).all())

    def slid(self, swept: Swept, lever: np.ndarray) -> np.ndarray:
        """Return the least change (D,) of rates that ends their excess, if a unit of each rate moves it by `lever`."""
        lack = np.maximum(self._low - swept.low, 0) - np.maximum(swept.high - self._high, 0)
        faces = lack != 0
        slope = swept.change[faces] * lever
        gram = slope @ slope.T
        gram += (1e-6 * np.trace(gram) + 1e-18) * np.eye(len(gram))
        return slope.T @ np.linalg.solve(gram, 1.01 * lack[faces])

    def narrow(self, swept: Swept) -> None:
        """Give up space outside the box that is no longer needed: the tip stays within `swept` until it has stopped."""
        self._low = np.clip(swept.low, self._low, self._box_low)
        self._high = np.clip(swept.high, self._box_high, self._high)

    def margin(self, joints: np.ndarray) -> float:
        """Return the metres from the tip to the nearest face of the box; negative outside."""
        place, _ = self._arm.place(joints)
        return float(min((place - self._box_low).min(), (self._box_high - place).min()))
