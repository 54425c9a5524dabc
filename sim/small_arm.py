"""A small five-joint MuJoCo arm with the SO-101's proportions, and its inverse kinematics."""

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")

MJCF = """
<mujoco model="small arm">
  <compiler angle="radian"/>
  <worldbody>
    <body pos="0 0 .06">
      <joint name="shoulder_pan" axis="0 0 1" range="-1.9 1.9"/>
      <geom type="capsule" size=".02" fromto="0 0 0 0 0 .05"/>
      <body pos="0 0 .05">
        <joint name="shoulder_lift" axis="0 1 0" range="-1.7 1.7"/>
        <geom type="capsule" size=".02" fromto="0 0 0 0 0 .116"/>
        <body pos="0 0 .116">
          <joint name="elbow_flex" axis="0 1 0" range="-1.7 1.7"/>
          <geom type="capsule" size=".018" fromto="0 0 0 .135 0 0"/>
          <body pos=".135 0 0">
            <joint name="wrist_flex" axis="0 1 0" range="-1.7 1.7"/>
            <geom type="capsule" size=".016" fromto="0 0 0 .06 0 0"/>
            <body pos=".06 0 0">
              <joint name="wrist_roll" axis="1 0 0" range="-2.7 2.7"/>
              <geom type="capsule" size=".014" fromto="0 0 0 .04 0 0"/>
              <site name="fingertip" pos=".06 0 0"/>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""

TURN = 0.2  # weight of pitch and roll errors: metres per radian
DAMPING = 1e-4  # m^2


@dataclass(frozen=True)
class Pose:
    """A fingertip pose: `place` (3,) in metres, and the hand's pitch (positive is down) and roll in rad."""

    place: np.ndarray
    pitch: float
    roll: float


@cache
def model() -> mujoco.MjModel:
    """Return the arm's model, compiled once."""
    return mujoco.MjModel.from_xml_string(MJCF)


def fingertip(joints: np.ndarray) -> np.ndarray:
    """Return the fingertip's position (3,) in metres at joint angles (5,) in rad."""
    data = mujoco.MjData(model())
    data.qpos[:] = joints
    mujoco.mj_kinematics(model(), data)
    return data.site("fingertip").xpos.copy()


def reach(data: mujoco.MjData, joints: np.ndarray, pose: Pose, iterations: int) -> np.ndarray:
    """Solve for joint angles (5,) in rad, within their ranges, that bring the fingertip from `joints` towards `pose`.

    Damped least squares (Wampler 1986): q += J^T (J J^T + damping I)^-1 error, over position, pitch and roll. `data`
    must belong to `model()`, and is overwritten.
    """
    arm = model()
    site = arm.site("fingertip").id
    low, high = arm.jnt_range.T
    turns = TURN * np.array([[0, 1, 1, 1, 0], [0, 0, 0, 0, 1]])
    move = np.zeros((3, arm.nv))
    for _ in range(iterations):
        data.qpos[:] = joints
        mujoco.mj_kinematics(arm, data)
        mujoco.mj_comPos(arm, data)
        mujoco.mj_jacSite(arm, data, move, None, site)
        wanted = TURN * np.array([pose.pitch, pose.roll])
        error = np.concatenate([pose.place - data.site_xpos[site], wanted - turns @ joints])
        jacobian = np.concatenate([move, turns])
        joints = joints + jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(5), error)
        joints = np.clip(joints, low, high)
    return joints
