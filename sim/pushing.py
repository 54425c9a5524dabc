"""A scene for testing planners: the small arm, driven by joint targets, pushes a box across a table to a goal."""

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from sim import small_arm
from sim.small_arm import JOINTS, MJCF, Pose, reach

BOX_M = 0.02  # half of the box's edge
GAIN, DAMPING_RATIO = 20.0, 1.0  # of the position servos: N m / rad; 1 is critical damping


@cache
def model() -> mujoco.MjModel:
    """Return the scene, compiled once: five position actuators, and a box that slides and turns on a plane."""
    spec = mujoco.MjSpec.from_string(MJCF)
    spec.modelname, spec.option.timestep = "pushing", 0.005
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for body in spec.bodies:
        for geom in body.geoms:
            geom.contype, geom.conaffinity, geom.density = 1, 2, 500
    for joint in spec.joints:
        joint.armature = 0.01
    world = spec.worldbody
    world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1], contype=0, conaffinity=0)
    box = world.add_body(name="box", pos=[0.0, 0.0, BOX_M])
    box.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[BOX_M] * 3, mass=0.05, contype=2, conaffinity=1)
    for name, axis in (("box_x", [1, 0, 0]), ("box_y", [0, 1, 0])):
        box.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=1.0, frictionloss=0.1)
    box.add_joint(name="box_turn", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], damping=1e-3)
    for name in JOINTS:
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=GAIN, dampratio=DAMPING_RATIO)
        actuator.ctrlrange, actuator.ctrllimited = spec.joint(name).range, mujoco.mjtLimited.mjLIMITED_TRUE
    return spec.compile()


@dataclass(frozen=True)
class Push:
    """One problem: initial joints (5,) in rad, initial box position (2,) and its goal (2,) in metres."""

    joints: np.ndarray
    box: np.ndarray
    goal: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Push":
        """Draw a box within reach, a goal 5 to 10 cm beyond it, and joints that put the hand behind both."""
        box = np.array([rng.uniform(0.16, 0.2), rng.uniform(-0.08, 0.08)])
        angle = rng.uniform(-0.5, 0.5)
        way = np.array([np.cos(angle), np.sin(angle)])
        behind = np.append(box - 0.06 * way, 0.03)
        start = np.array([0, -0.5, 0.5, 0.8, 0.0])
        joints = reach(mujoco.MjData(small_arm.model()), start, Pose(behind, 1.2, 0.0), 100)
        return cls(joints, box, box + rng.uniform(0.05, 0.1) * way)

    def state(self) -> np.ndarray:
        """Return MuJoCo's full physics state at the start, at rest."""
        data = mujoco.MjData(model())
        data.qpos[: len(JOINTS)], data.qpos[len(JOINTS) : len(JOINTS) + 2] = self.joints, self.box
        state = np.empty(mujoco.mj_stateSize(model(), mujoco.mjtState.mjSTATE_FULLPHYSICS))
        mujoco.mj_getState(model(), data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        return state
