"""The SO-101 in MuJoCo: so101-nexus's arm, scenes and tasks, at any control rate and with late commands."""

from collections import deque
from functools import cache

import gymnasium
import mujoco
import numpy as np
import so101_nexus.mujoco  # noqa: F401  registers its tasks
from gymnasium.envs.registration import load_env_creator
from so101_nexus import SO101_JOINT_NAMES, PhysicsConfig, RenderConfig, RenderingQuality
from so101_nexus.camera_utils import compute_angled_camera_params

from sim.canvas import View
from sim.so101_tasks import TASKS

JOINTS: tuple[str, ...] = tuple(SO101_JOINT_NAMES)
TIMESTEP_S = 0.005  # of the physics, about: it divides the control period
PLAIN = RenderingQuality(msaa_samples=0, shadows=False, shadow_map_size=64)  # what a Canvas draws
SIDE = {"azimuth": 130.0, "elevation": -30.0}  # degrees: where a person stands who watches


class LateArm:
    """What we add to an environment of so101-nexus: its commands take effect `latency_s` seconds late.

    Mixed into its classes. The delay is in whole steps of the physics; without one it is so101-nexus's own step.
    """

    latency_s = 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Reset; what the arm holds then was commanded long ago."""
        observation, info = super().reset(seed=seed, options=options)
        late = round(self.latency_s / self.model.opt.timestep)
        self._on_the_way = deque([self.data.ctrl.copy()] * late)
        return observation, info

    def _advance_physics(self) -> None:
        if not self._on_the_way:
            super()._advance_physics()
            return
        sent = self.data.ctrl.copy()
        for _ in range(self._N_SUBSTEPS):
            self._on_the_way.append(sent)
            self.data.ctrl[:] = self._on_the_way.popleft()
            mujoco.mj_step(self.model, self.data)

    @property
    def view(self) -> View:
        """The camera of a film: beside the table, the arm drawn by its collision geometry."""
        config = self.config
        return View(
            **compute_angled_camera_params(
                config.spawn_center,
                config.spawn_max_radius,
                **SIDE,
                spawn_angle_half_range_deg=config.spawn_angle_half_range_deg,
            )
        )


@cache
def _late(creator: type) -> type:
    return type(f"Late{creator.__name__}", (LateArm, creator), {})


def build(name: str, control_hz: float, end_on_success: bool, initial_noise_rad: float = 0.02) -> gymnasium.Env:
    """The environment of a task in TASKS: actions are absolute joint targets (6,) in rad; it never truncates.

    Observations are so101-nexus's own state (S,); `info["success"]` is its own judgement, and `end_on_success` ends the
    episode with it. A control period is a whole number of physics steps of about TIMESTEP_S.
    """
    creator = load_env_creator(gymnasium.spec(TASKS[name].id).entry_point)
    substeps = max(1, round(1 / control_hz / TIMESTEP_S))
    physics = PhysicsConfig(
        timestep_s=1 / control_hz / substeps,
        control_period_s=1 / control_hz,
        integrator="implicitfast",  # these three are its own preset on a CPU
        noslip_iterations=3,
        tolerance=1e-8,
    )
    return _late(creator)(
        config=creator.default_config_cls(
            physics=physics, render=RenderConfig(quality=PLAIN), terminate_on_success=end_on_success
        ),
        control_mode="pd_joint_pos",
        robot_init_qpos_noise=initial_noise_rad,
    )


def diverged(env: gymnasium.Env) -> bool:
    """Whether MuJoCo gave up on the state since the reset: it then starts over from the initial one, silently."""
    counts = env.unwrapped.data.warning.number
    bad = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
    return any(counts[kind.value] for kind in bad)


def components(env: gymnasium.Env) -> dict[str, slice]:
    """Where each part of the observation (S,) lies, by so101-nexus's name for it."""
    parts, start = {}, 0
    for part in env.unwrapped.config.observations:
        parts[part.name] = slice(start, start + part.size)
        start += part.size
    return parts


def limits(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest joint targets (6,) in rad."""
    space = env.unwrapped.action_space
    return space.low.astype(np.float64), space.high.astype(np.float64)
