"""Forward kinematics of the SO-101's fingertip, from joints as LeRobot names and measures them."""

import math
from functools import cache

import mujoco
import numpy as np

from sim.assets import asset
from sim.joints import JOINTS, TURNS
from sim.twin.model import ARM

SITE = "gripperframe"


@cache
def _model() -> mujoco.MjModel:
    """Return the arm's model without its meshes, which take seconds to load and do not affect kinematics."""
    spec = mujoco.MjSpec.from_file(str(asset(*ARM)))
    for geom in list(spec.geoms):
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    return spec.compile()


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
