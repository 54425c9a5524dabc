"""Domain randomisation: how much a simulated arm may differ from its model from one episode to the next."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sim import InvalidValue

if TYPE_CHECKING:
    import mujoco


@dataclass(frozen=True)
class Variation:
    """Domain randomisation: ranges [low, high] from which each episode draws uniformly. The defaults change nothing.

    `gains`: factor on each servo's stiffness and damping. `friction`: factor on contact friction and on the joints' dry
    friction. `masses`: factor on the mass of each body, objects included. `latency_ms`: delay until a command takes
    effect. `offset_deg`: calibration error of each joint, so that the arm is not where its encoders say. `camera_mm`,
    `camera_deg`: displacement of the camera along each axis, and rotation about it. `light`: factor on the brightness.
    `acceleration`: factor on the servos'.

    Source: Tobin et al. 2017 (arXiv 1703.06907); Peng et al. 2018 (arXiv 1710.06537).
    """

    gains: tuple[float, ...] = (1.0, 1.0)
    friction: tuple[float, ...] = (1.0, 1.0)
    masses: tuple[float, ...] = (1.0, 1.0)
    latency_ms: tuple[float, ...] = (0.0, 0.0)
    offset_deg: tuple[float, ...] = (0.0, 0.0)
    camera_mm: tuple[float, ...] = (0.0, 0.0)
    camera_deg: tuple[float, ...] = (0.0, 0.0)
    light: tuple[float, ...] = (1.0, 1.0)
    acceleration: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        for name, ((least, most), *_) in RANGES.items():
            pair = getattr(self, name)
            right = len(pair) == 2 and all(map(math.isfinite, pair)) and least <= pair[0] <= pair[1] <= most
            if not right:
                raise InvalidValue(f"randomise.{name}={list(pair)}: [low, high] with {least} <= low <= high <= {most}")

    @property
    def off(self) -> bool:
        """Whether the variation changes nothing."""
        return self == Variation()


RANGES: dict[str, tuple[tuple[float, float], ...]] = {  # of each: the bounds, and the ranges of `mild` and `strong`
    "gains": ((0.1, 10), (0.9, 1.1), (0.7, 1.4)),
    "friction": ((0.1, 10), (0.8, 1.25), (0.5, 2.0)),
    "masses": ((0.1, 10), (0.9, 1.1), (0.7, 1.4)),
    "latency_ms": ((0, 200), (0.0, 20.0), (0.0, 60.0)),
    "offset_deg": ((-10, 10), (-1.0, 1.0), (-3.0, 3.0)),
    "camera_mm": ((-100, 100), (-5.0, 5.0), (-15.0, 15.0)),
    "camera_deg": ((-30, 30), (-2.0, 2.0), (-5.0, 5.0)),
    "light": ((0.1, 3), (0.8, 1.2), (0.5, 1.5)),
    "acceleration": ((0.1, 10), (0.8, 1.25), (0.5, 2.0)),
}
PRESETS: dict[str, Variation] = {
    "off": Variation(),
    "mild": Variation(**{name: mild for name, (_, mild, _) in RANGES.items()}),
    "strong": Variation(**{name: strong for name, (*_, strong) in RANGES.items()}),
}
"""Named variations, as accepted by `randomise=`."""
KEPT = (
    *("actuator_gainprm", "actuator_biasprm", "geom_friction", "dof_frictionloss", "body_mass", "body_inertia"),
    *("qpos0", "cam_pos", "cam_quat", "light_diffuse"),
)
"""Arrays of a model that a draw changes."""


def draw(variation: Variation, bodies: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw an episode's parameters, by name, uniformly from each range; one does not change the others' draws."""
    sizes = {"gains": 6, "offset_deg": 6, "masses": bodies, "camera_mm": 3, "camera_deg": 3}
    ranges = vars(variation).items()
    return {name: low + rng.random(sizes.get(name, 1)) * (high - low) for name, (low, high) in ranges}


class Nominal:
    """The nominal parameters of a model, to which draws are applied. `joints` (6,): joint ids in the motors' order."""

    def __init__(self, model: "mujoco.MjModel", joints: np.ndarray):
        self.model, self.dofs, self.places = model, model.jnt_dofadr[joints], model.jnt_qposadr[joints]
        self.kept = {name: getattr(model, name).copy() for name in KEPT}
        self.zero = self.kept["qpos0"][self.places]  # rad
        self.headlight = model.vis.headlight.ambient.copy()

    def change(self, drawn: dict[str, np.ndarray]) -> None:
        """Set the model to its nominal parameters changed by `drawn`, regardless of earlier draws.

        A servo's force is stiffness * (target - angle) - damping * rate. A calibration error rotates each link relative
        to its joint reading: MuJoCo's angle of a link is qpos - qpos0.
        """
        import mujoco

        model, kept = self.model, self.kept
        model.actuator_gainprm[:, 0] = kept["actuator_gainprm"][:, 0] * drawn["gains"]
        model.actuator_biasprm[:, 1:3] = kept["actuator_biasprm"][:, 1:3] * drawn["gains"][:, None]
        model.geom_friction[:, 0] = kept["geom_friction"][:, 0] * drawn["friction"]
        model.dof_frictionloss[self.dofs] = kept["dof_frictionloss"][self.dofs] * drawn["friction"]
        model.body_mass[:] = kept["body_mass"] * drawn["masses"]
        model.body_inertia[:] = kept["body_inertia"] * drawn["masses"][:, None]
        model.qpos0[self.places] = self.zero + np.radians(drawn["offset_deg"])
        model.cam_pos[:] = kept["cam_pos"] + drawn["camera_mm"] / 1000
        turn = np.empty(4)
        mujoco.mju_euler2Quat(turn, np.radians(drawn["camera_deg"]), "xyz")
        for camera, quaternion in zip(model.cam_quat, kept["cam_quat"], strict=True):
            mujoco.mju_mulQuat(camera, quaternion, turn)
        model.light_diffuse[:] = kept["light_diffuse"] * drawn["light"]
        model.vis.headlight.ambient[:] = self.headlight * drawn["light"]
        mujoco.mj_setConst(model, mujoco.MjData(model))  # constants derived from masses and positions
