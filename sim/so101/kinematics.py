"""Kinematics of the SO-101: where its fingertips are for given joints, and the joints that bring them to a pose.

The inverse minimises, over the joints' ranges,
(|p(q) - place| / 1 mm)^2 + (TURN |a(q) - approach|)^2 + (TURN |j(q) - across|)^2 + (STAY |q - start|)^2.
Five joints cannot reach every pose: position takes priority over orientation.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np

from sim.so101.joints import JOINTS, TURNS

SITE = "gripperframe"
ARM = 5  # joints before the gripper
MARGIN_RAD = 0.04  # kept from the ends of the joints' ranges
TURN, STAY = 6.0, 0.05  # mm per unit error of a direction vector, and per radian of motion
DOWN = np.array([0.0, 0.0, -1.0])


def arm_file() -> Path:
    """Return MuJoCo Menagerie's model of the arm, in so101-nexus (slow to import). Raises ImportError without it."""
    package = importlib.util.find_spec("so101_nexus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("so101-nexus is not installed", name="so101_nexus")
    return Path(package.submodule_search_locations[0]) / "assets" / "SO101_menagerie" / "so101.xml"


def bare_spec(path: Path) -> mujoco.MjSpec:
    """Read a MuJoCo scene without what is only seen, as meshes take seconds to load; bodies keep their masses."""
    spec = mujoco.MjSpec.from_file(str(path))
    for body in spec.bodies:
        for geom in list(body.geoms):
            if body.explicitinertial and geom.contype == 0 and geom.conaffinity == 0:
                spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
    return spec


@cache
def _model() -> mujoco.MjModel:
    return bare_spec(arm_file()).compile()


class Fingertip:
    """Computes the position of the point between the fingers, in metres from the arm's base: x forward, y left, z up.

    Joints (D,) are in degrees, D = 6. The gripper, which moves only a finger, does not move the tip. `reach` (D,):
    upper bound on the tip's distance from each joint's axis, in metres; 0 for the gripper.
    """

    radians = np.full(len(JOINTS), math.pi / 180)

    def __init__(self):
        self._model, self._data = _model(), mujoco.MjData(_model())
        self._site = self._model.site(SITE).id
        self._joints = [self._model.joint(name).id for name in TURNS]
        self._places = [int(self._model.jnt_qposadr[joint]) for joint in self._joints]
        self.reach = np.array([*(self._reach(joint) for joint in self._joints), 0.0])

    def place(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's position (3,) for joints (D,), and its Jacobian (3, D) in metres per radian."""
        self._data.qpos[self._places] = (joints * self.radians)[: len(TURNS)]
        mujoco.mj_kinematics(self._model, self._data)
        place = self._data.site_xpos[self._site].copy()
        change = np.zeros((3, len(JOINTS)))
        arms = place - self._data.xanchor[self._joints]
        change[:, : len(TURNS)] = np.cross(self._data.xaxis[self._joints], arms).T
        return place, change

    def _reach(self, joint: int) -> float:
        """Return an upper bound on the tip's distance from a joint's axis: all links beyond it in a straight line."""
        model, body = self._model, int(self._model.site_bodyid[self._site])
        reach = float(np.linalg.norm(model.site_pos[self._site]))
        while body != model.jnt_bodyid[joint]:
            reach += float(np.linalg.norm(model.body_pos[body]))
            body = int(model.body_parentid[body])
        return reach + float(np.linalg.norm(model.jnt_pos[joint]))


@dataclass(frozen=True)
class Pose:
    """A goal for the point between the fingers: `place` (3,) in metres, and the hand's orientation.

    Unit vectors (3,) give the orientation: `approach` is the direction in which the fingers point; `across` points from
    the moving finger to the fixed one (None: unconstrained).
    """

    place: np.ndarray
    approach: np.ndarray
    across: np.ndarray | None = None

    def errors(self, place: np.ndarray, axes: np.ndarray, *more: np.ndarray) -> np.ndarray:
        """Return what the inverse minimises the square of, at a hand's place (3,) and axes (3, 3); `more`: as well."""
        parts = [(place - self.place) * 1e3, TURN * (axes[:, 2] - self.approach), *more]
        if self.across is not None:
            parts.append(TURN * (axes[:, 0] - self.across))
        return np.concatenate(parts)


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
        from scipy.optimize import least_squares  # takes half a second, and the gate needs only `Fingertip`

        start = np.clip(start, self._low, self._high)

        def errors(joints: np.ndarray) -> np.ndarray:
            return pose.errors(*self.hand(joints), STAY * (joints - start))

        found = least_squares(errors, start, bounds=(self._low, self._high), x_scale=0.3, max_nfev=60)
        place, _ = self.hand(found.x)
        return Reached(found.x, float(np.linalg.norm(place - pose.place)), 2 * float(found.cost))
