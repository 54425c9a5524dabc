"""Keeps the gripper's tip in its box, with room to stop: what braking may still pass through, bounded.

Braking moves joint j by at most d_j, so to anywhere between q and q + d. There the tip's place along an axis is, by
Taylor, p(q) + J u + u' H u / 2 for some u between 0 and d, and |H_ij| <= the lesser reach of joints i and j: how far
the tip can ever be from their axes. So it lies in p(q) + [sum_j min(J_j d_j, 0), sum_j max(J_j d_j, 0)] +- d' R d / 2.
"""

from typing import Protocol

import numpy as np

from robot.limits import Box


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

    def swept(self, joints: np.ndarray, stopping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (3,) and (3,) on the tip's place while it brakes from `joints`, each moving by at most `stopping`."""
        place, change = self._arm.place(joints)
        turn = stopping * self._arm.radians
        parts, size = change * turn, np.abs(turn)
        bend = size @ self._curvature @ size
        return place + np.minimum(parts, 0).sum(1) - bend, place + np.maximum(parts, 0).sum(1) + bend

    def holds(self, swept: tuple[np.ndarray, np.ndarray]) -> bool:
        """Whether those bounds are in the box."""
        low, high = swept
        return bool((low >= self._low).all() and (high <= self._high).all())

    def narrow(self, swept: tuple[np.ndarray, np.ndarray]) -> None:
        """Give up what was outside the box and no longer needed: the tip stays within `swept` until it has stopped."""
        low, high = swept
        self._low = np.clip(low, self._low, self._box_low)
        self._high = np.clip(high, self._box_high, self._high)

    def margin(self, joints: np.ndarray) -> float:
        """Metres from the tip to the box's nearest face; negative outside."""
        place, _ = self._arm.place(joints)
        return float(min((place - self._box_low).min(), (self._box_high - place).min()))
