"""Bodies of which something breaks in the middle of an episode: to see what an agent then notices, and does.

Unlike domain randomisation (`sim.variation`), which an agent trains under, these begin at a step and hold to the end.
"""

from dataclasses import dataclass

import gymnasium
import numpy as np

from envs.quantities import simulation
from worldmodel.errors import UserError
from worldmodel.strict import check_ranges, ranged

JAM, FLIP, WEAK, LOAD = "jam", "flip", "weak", "load"
KINDS = {
    JAM: "a joint with a motor does not move any more",
    FLIP: "a motor turns the other way",
    WEAK: "all motors have a third of their force",
    LOAD: "each body is half as heavy again",
}
CHANGED = ("dof_armature", "actuator_gear", "body_mass", "body_inertia")
"""What a fault changes of a MuJoCo model."""
STUCK = 1e5
"""The inertia of a jammed joint, in kg m2 or kg: stable under each integrator, unlike friction."""


@dataclass(frozen=True)
class FaultConfig:
    """What breaks (one of KINDS; \"\": nothing), from control step `at_step` of each episode on.

    The joint or motor is drawn by the episode's seed.
    """

    kind: str = ""
    at_step: int = ranged(0, low=0)

    def __post_init__(self):
        """Raise ValueError for an unknown kind or a value out of range."""
        check_ranges("fault.", self)
        if self.kind and self.kind not in KINDS:
            raise UserError(f"fault.kind={self.kind}: one of {', '.join(KINDS)}")
        if self.at_step and not self.kind:
            raise UserError(f"fault.at_step={self.at_step}: only with fault.kind=, what breaks then")


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
