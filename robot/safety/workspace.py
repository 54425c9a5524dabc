"""Keeps the gripper's tip in its box, with room to stop, by bounding where braking may still take it.

Braking moves joint j by at most d_j, so to anywhere between q and q + d. There the tip's position along an axis is, by
Taylor, p(q) + J u + u' H u / 2 for some u between 0 and d, and |H_ij| <= the lesser reach of joints i and j: how far
the tip can ever be from their axes. So it lies in p(q) + [sum_j min(J_j d_j, 0), sum_j max(J_j d_j, 0)] +- d' R d / 2.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot.safety.limits import Box


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
        """Return the least change (D,) of the rates that brings those bounds back into the box, to first order.

        `lever` (D,): how far, in units, a unit change of each rate moves them.
        """
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
