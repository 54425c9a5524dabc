"""One draw of a Variation, and a MuJoCo model changed by it."""

from dataclasses import dataclass

import mujoco
import numpy as np

from sim.variation import Variation


@dataclass(frozen=True)
class Draw:
    """What one episode has: factors `gains` (6,), `friction`, `masses` (bodies,), `light`; the rest in SI units.

    `latency_s`; `offset_rad` (6,): what an encoder says too much; `camera_m` (3,) and `camera_rad` (3,).
    """

    gains: np.ndarray
    friction: float
    masses: np.ndarray
    latency_s: float
    offset_rad: np.ndarray
    camera_m: np.ndarray
    camera_rad: np.ndarray
    light: float

    @classmethod
    def of(cls, variation: Variation, bodies: int, rng: np.random.Generator) -> "Draw":
        """Draw evenly. What one range is does not change what is drawn for the others."""
        sizes = (6, None, bodies, None, 6, 3, 3, None)
        ranges = (
            variation.gains,
            variation.friction,
            variation.masses,
            variation.latency_ms,
            variation.offset_deg,
            variation.camera_mm,
            variation.camera_deg,
            variation.light,
        )
        shares = [rng.random(size) for size in sizes]
        values = [low + share * (high - low) for (low, high), share in zip(ranges, shares, strict=True)]
        gains, friction, masses, latency, offset, camera, turn, light = values
        return cls(gains, friction, masses, latency / 1000, np.radians(offset), camera / 1000, np.radians(turn), light)


class Nominal:
    """A model as it was, and how to change it by a draw. `joints` (6,) are the arm's joints, in its motors' order."""

    def __init__(self, model: mujoco.MjModel, joints: np.ndarray):
        self.model, self.dofs, self.places = model, model.jnt_dofadr[joints], model.jnt_qposadr[joints]
        self.zero = model.qpos0[self.places].copy()  # rad
        self.kept = {name: getattr(model, name).copy() for name in KEPT}
        self.headlight = model.vis.headlight.ambient.copy()

    def change(self, draw: Draw) -> None:
        """Make the model what `draw` says, whatever it was made before.

        A servo's force is stiffness (target - angle) - damping rate. A calibration's error turns each link against what
        its joint says: MuJoCo's angle of a link is qpos - qpos0.
        """
        model, kept = self.model, self.kept
        model.actuator_gainprm[:, 0] = kept["actuator_gainprm"][:, 0] * draw.gains
        model.actuator_biasprm[:, 1:3] = kept["actuator_biasprm"][:, 1:3] * draw.gains[:, None]
        model.geom_friction[:, 0] = kept["geom_friction"][:, 0] * draw.friction
        model.dof_frictionloss[self.dofs] = kept["dof_frictionloss"][self.dofs] * draw.friction
        model.body_mass[:] = kept["body_mass"] * draw.masses
        model.body_inertia[:] = kept["body_inertia"] * draw.masses[:, None]
        model.qpos0[self.places] = self.zero + draw.offset_rad
        model.cam_pos[:] = kept["cam_pos"] + draw.camera_m
        turn = np.empty(4)
        mujoco.mju_euler2Quat(turn, draw.camera_rad, "xyz")
        for camera, quaternion in zip(model.cam_quat, kept["cam_quat"], strict=True):
            mujoco.mju_mulQuat(camera, quaternion, turn)
        model.light_diffuse[:] = kept["light_diffuse"] * draw.light
        model.vis.headlight.ambient[:] = self.headlight * draw.light
        mujoco.mj_setConst(model, mujoco.MjData(model))  # what follows from masses and places


KEPT = (
    *("actuator_gainprm", "actuator_biasprm", "geom_friction", "dof_frictionloss", "body_mass", "body_inertia"),
    *("cam_pos", "cam_quat", "light_diffuse"),
)
