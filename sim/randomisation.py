"""Draw parameters from a Variation and apply them to a MuJoCo model."""

from dataclasses import dataclass

import mujoco
import numpy as np

from sim.variation import Variation


@dataclass(frozen=True)
class Draw:
    """The parameters of one episode.

    Factors: `gains` (6,), `friction`, `masses` (bodies,), `light`. In SI units: `latency_s`; `offset_rad` (6,), by how
    much each encoder reads too high; `camera_m` (3,) and `camera_rad` (3,).
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
        """Draw uniformly from each range; changing one range does not change the draws for the others."""

        def one(ends: tuple[float, ...]) -> float:
            return ends[0] + rng.random() * (ends[1] - ends[0])

        def many(ends: tuple[float, ...], count: int) -> np.ndarray:
            return ends[0] + rng.random(count) * (ends[1] - ends[0])

        return cls(
            gains=many(variation.gains, 6),
            friction=one(variation.friction),
            masses=many(variation.masses, bodies),
            latency_s=one(variation.latency_ms) / 1000,
            offset_rad=np.radians(many(variation.offset_deg, 6)),
            camera_m=many(variation.camera_mm, 3) / 1000,
            camera_rad=np.radians(many(variation.camera_deg, 3)),
            light=one(variation.light),
        )


class Nominal:
    """The nominal parameters of a model, to which draws are applied. `joints` (6,): joint ids in the motors' order."""

    def __init__(self, model: mujoco.MjModel, joints: np.ndarray):
        self.model, self.dofs, self.places = model, model.jnt_dofadr[joints], model.jnt_qposadr[joints]
        self.zero = model.qpos0[self.places].copy()  # rad
        self.kept = {name: getattr(model, name).copy() for name in KEPT}
        self.headlight = model.vis.headlight.ambient.copy()

    def change(self, draw: Draw) -> None:
        """Set the model to its nominal parameters changed by `draw`, regardless of earlier draws.

        A servo's force is stiffness * (target - angle) - damping * rate. A calibration error rotates each link relative
        to its joint reading: MuJoCo's angle of a link is qpos - qpos0.
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
        mujoco.mj_setConst(model, mujoco.MjData(model))  # constants derived from masses and positions


KEPT = (
    *("actuator_gainprm", "actuator_biasprm", "geom_friction", "dof_frictionloss", "body_mass", "body_inertia"),
    *("cam_pos", "cam_quat", "light_diffuse"),
)
