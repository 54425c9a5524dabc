"""Inverse kinematics of the SO-101: the five joint angles that bring its fingertips to a pose.

Minimises  (|p(q) - place| / 1 mm)^2 + (TURN |a(q) - approach|)^2 + (TURN |j(q) - across|)^2 + (STAY |q - start|)^2
over the joints' ranges. Five joints cannot reach every pose: position takes priority over orientation.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.optimize import least_squares

from sim.so101.forward_kinematics import SITE

ARM = 5  # joints before the gripper
MARGIN_RAD = 0.04  # kept from the ends of the joints' ranges
TURN, STAY = 6.0, 0.05  # mm per unit error of a direction vector, and per radian of motion
DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Pose:
    """A goal for the point between the fingers: `place` (3,) in metres, and the hand's orientation.

    Unit vectors (3,) give the orientation: `approach` is the direction in which the fingers point; `across` points from
    the moving finger to the fixed one (None: unconstrained).
    """

    place: np.ndarray
    approach: np.ndarray
    across: np.ndarray | None = None


@dataclass(frozen=True)
class Reached:
    """A solution: joints (5,) in rad, position error in metres, and total cost in square millimetres."""

    joints: np.ndarray
    miss_m: float
    cost: float


class Reach:
    """Inverse kinematics for one arm's model, on data of its own: the simulated scene is not affected."""

    def __init__(self, model: mujoco.MjModel, low: np.ndarray, high: np.ndarray):
        """`low`, `high` (6,): the joints' ranges in rad; the arm's joints must come first in the model."""
        self._model, self._data = model, mujoco.MjData(model)
        self._site = model.site(SITE).id
        roots = model.body_rootid[model.geom_bodyid]
        self._own = roots == model.body_rootid[model.site_bodyid[self._site]]  # geoms of the arm
        self._planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        self._low, self._high = low[:ARM] + MARGIN_RAD, high[:ARM] - MARGIN_RAD

    def hand(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the position (3,) of the point between the fingers and the hand's axes, as columns (3, 3)."""
        self._data.qpos[:ARM] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy(), self._data.site_xmat[self._site].reshape(3, 3).copy()

    def sunk(self, joints: np.ndarray, gripper: float) -> float:
        """Return how deep the arm would sink into the table, in metres, at joints (5,) and `gripper`, in rad."""
        self._data.qpos[: ARM + 1] = np.append(joints, gripper)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        pairs, depth = self._data.contact.geom, -self._data.contact.dist
        here = self._planes[pairs].any(1) & self._own[pairs].any(1)
        return float(max(depth[here].max(initial=0), 0))

    def solve(self, pose: Pose, start: np.ndarray) -> Reached:
        """Solve for the joints that best reach the pose, preferring those near `start` (5,)."""
        start = np.clip(start, self._low, self._high)

        def errors(joints: np.ndarray) -> np.ndarray:
            place, axes = self.hand(joints)
            parts = [(place - pose.place) * 1e3, TURN * (axes[:, 2] - pose.approach), STAY * (joints - start)]
            if pose.across is not None:
                parts.append(TURN * (axes[:, 0] - pose.across))
            return np.concatenate(parts)

        found = least_squares(errors, start, bounds=(self._low, self._high), x_scale=0.3, max_nfev=60)
        place, _ = self.hand(found.x)
        return Reached(found.x, float(np.linalg.norm(place - pose.place)), 2 * float(found.cost))
