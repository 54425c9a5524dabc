"""Bodies of which something breaks in the middle of an episode: to see what an agent then notices, and does.

Unlike domain randomisation (`sim.variation`), which an agent trains under, these begin at a step and hold to the end.
"""

import gymnasium
import numpy as np

from envs.quantities import simulation
from envs.settings import FLIP, JAM, WEAK, FaultConfig
from worldmodel.errors import UserError

CHANGED = ("dof_armature", "actuator_gear", "body_mass", "body_inertia")
"""What a fault changes of a MuJoCo model."""
STUCK = 1e5
"""The inertia of a jammed joint, in kg m2 or kg: stable under each integrator, unlike friction."""


class Faulty(gymnasium.Wrapper):
    """An environment whose simulated body breaks as the settings say; each reset mends it.

    Raises UserError for an environment without a MuJoCo model, or without motors.
    """

    def __init__(self, env: gymnasium.Env, fault: FaultConfig):
        super().__init__(env)
        self.fault, self._step = fault, 0
        self._whole: tuple | None = None  # the model, and what it was before it broke
        found = simulation(env)
        if found is None or not found[0].nu:
            raise UserError(f"fault.kind={fault.kind}: only where MuJoCo simulates motors")

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode with a whole body."""
        if self._whole is not None:
            model, values = self._whole
            for name, value in zip(CHANGED, values, strict=True):
                getattr(model, name)[:] = value
        self._step, self._whole = 0, None
        self._drawn = np.random.default_rng(seed)
        returned = self.env.reset(seed=seed, options=options)
        self._break()
        return returned

    def step(self, action: np.ndarray):
        """Advance one control step."""
        returned = self.env.step(action)
        self._step += 1
        self._break()
        return returned

    def _break(self) -> None:
        """Change the model if it is time."""
        if self._step != self.fault.at_step:
            return
        found = simulation(self.env)
        assert found is not None
        model, data = found
        self._whole = model, [np.array(getattr(model, name)) for name in CHANGED]
        motor = int(self._drawn.integers(model.nu))
        if self.fault.kind == JAM:
            degree = int(model.jnt_dofadr[model.actuator_trnid[motor, 0]])
            model.dof_armature[degree] = STUCK
            data.qvel[degree] = 0
        elif self.fault.kind == FLIP:
            model.actuator_gear[motor] *= -1
        elif self.fault.kind == WEAK:
            model.actuator_gear[:] /= 3
        else:
            model.body_mass[:] *= 1.5
            model.body_inertia[:] *= 1.5
