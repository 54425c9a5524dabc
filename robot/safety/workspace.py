"""Keeps the gripper's tip in its box, with room to stop: what braking may still pass through, bounded.

Braking moves joint j by at most d_j, so to anywhere between q and q + d. There the tip's place along an axis is, by
Taylor, p(q) + J u + u' H u / 2 for some u between 0 and d, and |H_ij| <= the lesser reach of joints i and j: how far
the tip can ever be from their axes. So it lies in p(q) + [sum_j min(J_j d_j, 0), sum_j max(J_j d_j, 0)] +- d' R d / 2.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot.safety.limits import Box


class Arm(Protocol):
    """Where the tip is: forward kinematics, in the joints' own units."""

    @property
    def reach(self) -> np.ndarray:
        """How far (D,) in metres the tip can be from each joint's axis at most."""

    @property
    def radians(self) -> np.ndarray:
        """Radians (D,) in one unit of each joint."""

    def place(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tip's place (3,) in metres, and its change (3, D) with each joint, in metres a radian."""


@dataclass(frozen=True)
class Swept:
    """Where the tip can be while it brakes: bounds (3,) and (3,), and `change` (3, D) of its place, metres a unit."""

    low: np.ndarray
    high: np.ndarray
    change: np.ndarray


class Workspace:
    """The box, widened to where the tip began if that was outside; it narrows again as the tip comes in."""

    def __init__(self, box: Box, arm: Arm):
        self._arm, self._box_low, self._box_high = arm, box.low, box.high
        self._low, self._high = box.low, box.high
        self._curvature = np.minimum.outer(arm.reach, arm.reach) / 2

    def begin(self, joints: np.ndarray) -> None:
        """Start at rest at `joints` (D,)."""
        place, _ = self._arm.place(joints)
        self._low, self._high = np.minimum(self._box_low, place), np.maximum(self._box_high, place)

    def swept(self, joints: np.ndarray, stopping: np.ndarray) -> Swept:
        """Bounds on the tip's place while it brakes from `joints` (D,), each moving by at most `stopping` (D,)."""
        place, change = self._arm.place(joints)
        change = change * self._arm.radians
        parts, size = change * stopping, np.abs(stopping * self._arm.radians)
        bend = size @ self._curvature @ size
        return Swept(place + np.minimum(parts, 0).sum(1) - bend, place + np.maximum(parts, 0).sum(1) + bend, change)

    def holds(self, swept: Swept) -> bool:
        """Whether those bounds are in the box."""
        return bool((swept.low >= self._low).all() and (swept.high <= self._high).all())

    def slid(self, swept: Swept, lever: np.ndarray) -> np.ndarray:
        """The least change (D,) of the rates that takes those bounds back into the box, to first order.

        `lever` (D,): how far, in units, a change of each rate by one moves them.
        """
        lack = np.maximum(self._low - swept.low, 0) - np.maximum(swept.high - self._high, 0)
        faces = lack != 0
        slope = swept.change[faces] * lever
        gram = slope @ slope.T
        gram += (1e-6 * np.trace(gram) + 1e-18) * np.eye(len(gram))
        return slope.T @ np.linalg.solve(gram, 1.01 * lack[faces])

    def narrow(self, swept: Swept) -> None:
        """Give up what was outside the box and no longer needed: the tip stays within `swept` until it has stopped."""
        self._low = np.clip(swept.low, self._low, self._box_low)
        self._high = np.clip(swept.high, self._box_high, self._high)

    def margin(self, joints: np.ndarray) -> float:
        """Metres from the tip to the box's nearest face; negative outside."""
        place, _ = self._arm.place(joints)
        return float(min((place - self._box_low).min(), (self._box_high - place).min()))
