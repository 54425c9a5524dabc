"""The SO-101 in MuJoCo: so101-nexus's arm, scenes and tasks, with any control rate, latency and randomisation."""

from collections import deque
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any

import gymnasium
import mujoco
import numpy as np
import so101_nexus.mujoco  # noqa: F401  registers its tasks
from so101_nexus import PhysicsConfig, RenderConfig, RenderingQuality
from so101_nexus.camera_utils import compute_angled_camera_params, compute_overhead_camera_params
from so101_nexus.mujoco.base_env import SO101NexusMuJoCoBaseEnv

from sim.ramp import ACCELERATION, FASTEST, UNIT, radians, ramp
from sim.renderer import View
from sim.so101.joints import JOINTS
from sim.so101.tasks import TASKS
from sim.variation import Nominal, Variation, draw

FASTEST_RAD_S = radians(FASTEST)
TIMESTEP_S = 0.005  # approximate physics step; the actual one divides the control period
PLAIN = RenderingQuality(msaa_samples=0, shadows=False, shadow_map_size=64)  # the quality a Canvas renders at
AZIMUTH, ELEVATION = 130.0, -30.0  # degrees: the position of a watching person
STREAM = 101  # random stream for variations, separate from so101-nexus's layouts


class VariedArm(SO101NexusMuJoCoBaseEnv):
    """so101-nexus's environments, with servos' ramps, command latency and a draw of a Variation at each reset.

    Without a variation and with `acceleration` 0, results are bit-identical to so101-nexus's. `commanded` (6,): the
    latest targets in rad. `setpoint` (6,) in rad, `pace` (6,) in rad/s: where the servos are on their ramps to them, at
    most `rate`, in rad/s^2. `draw`: this episode's parameters, None without a variation.

    With a calibration error the arm trusts its encoders: the observed joints, the hand's pose and quantities relative
    to it are computed from them, while success, contacts and the scene follow the true positions.
    """

    variation = Variation()
    acceleration = ACCELERATION
    draw: dict[str, np.ndarray] | None = None
    commanded: np.ndarray
    setpoint: np.ndarray
    pace: list[float]
    rate = 0.0
    _on_the_way: deque[np.ndarray]

    def vary(self, variation: Variation) -> None:
        """Draw from `variation` at each reset from the next one on."""
        self.variation = variation
        self._nominal = Nominal(self.model, self._joint_ids)
        self._believed = mujoco.MjData(self.model)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode with a new draw; the queue of late commands is filled with the arm's initial targets."""
        self._on_the_way = deque()
        if not self.variation.off:
            if seed is not None:
                self._rng = np.random.default_rng([seed, STREAM])
            self.draw = draw(self.variation, self.model.nbody, self._rng)
            self._nominal.change(self.draw)
        observation, info = super().reset(seed=seed, options=options)
        self.commanded = self.setpoint = self.data.ctrl.copy()
        self.pace = [0.0] * len(JOINTS)
        self._times = [(1 + step) * self.model.opt.timestep for step in range(self._N_SUBSTEPS)]
        self.rate = radians(UNIT * self.acceleration) * (self.draw["acceleration"].item() if self.draw else 1.0)
        latency_s = self.draw["latency_ms"].item() / 1000 if self.draw else 0.0
        late = round(latency_s / self.model.opt.timestep)
        self._on_the_way = deque([self.commanded] * late)
        return observation, info

    def _action_to_ctrl(self, action: np.ndarray) -> np.ndarray:
        self.commanded = np.asarray(super()._action_to_ctrl(action), np.float64)
        return self.commanded

    def _advance_physics(self) -> None:
        self.advance(self.commanded)

    def advance(self, target: np.ndarray) -> None:
        """Simulate a control period after `target` (6,), in rad, was sent."""
        if not self._on_the_way:
            self._follow(target, self._N_SUBSTEPS)
            return
        for _ in range(self._N_SUBSTEPS):
            self._on_the_way.append(target)
            self._follow(self._on_the_way.popleft(), 1)

    def _follow(self, target: np.ndarray, steps: int) -> None:
        """Simulate physics steps in which the setpoints move to `target` (6,)."""
        if not self.rate:
            self.data.ctrl[:] = target
            mujoco.mj_step(self.model, self.data, nstep=steps)
            return
        model, data, away, times = self.model, self.data, (target - self.setpoint).tolist(), self._times[:steps]
        moves = [ramp(*each, FASTEST_RAD_S, self.rate, times) for each in zip(away, self.pace, strict=True)]
        path, ctrl = np.array([path for path, _ in moves]).T + self.setpoint, data.ctrl
        for setpoint in path:
            ctrl[:] = setpoint
            mujoco.mj_step(model, data)
        self.setpoint, self.pace = path[-1], [pace for _, pace in moves]

    def _compute_obs_components(self) -> np.ndarray:
        state = super()._compute_obs_components()
        if self.draw is None or not self.draw["offset_deg"].any():
            return state
        parts, pose = components(self), self._believed_pose()
        away = self._get_tcp_pose()[:3] - pose[:3]
        if "end_effector_pose" in parts:
            state[parts["end_effector_pose"]] = pose
        for name in ("object_offset", "target_offset"):
            if name in parts:
                state[parts[name]] += away
        return state

    def state(self) -> np.ndarray:
        """Return the current observation (S,)."""
        return self._compute_obs_components()

    def _believed_pose(self) -> np.ndarray:
        """Return the hand's pose (7,) implied by the encoders: position in metres, quaternion."""
        zero = self.model.qpos0[self._nominal.places].copy()
        self.model.qpos0[self._nominal.places] = self._nominal.zero
        self._believed.qpos[:] = self.data.qpos
        mujoco.mj_kinematics(self.model, self._believed)
        self.model.qpos0[self._nominal.places] = zero
        turned = np.empty(4)
        mujoco.mju_mat2Quat(turned, self._believed.site_xmat[self._tcp_site_id])
        return np.concatenate([self._believed.site_xpos[self._tcp_site_id], turned])

    @property
    def view(self) -> View:
        """The view for videos: beside the table, with the arm drawn by its collision geometry."""
        return self.views["side"]

    @property
    def views(self) -> dict[str, View]:
        """The cameras by name: `wrist`, on the hand; `side`; `overhead`. The last two are not randomised."""
        spawn = (self.config.spawn_center, self.config.spawn_max_radius)
        half = self.config.spawn_angle_half_range_deg
        side = compute_angled_camera_params(
            *spawn, azimuth=AZIMUTH, elevation=ELEVATION, spawn_angle_half_range_deg=half
        )
        return {
            "wrist": View("wrist_cam"),
            "side": View(**side),
            "overhead": View(**compute_overhead_camera_params(*spawn)),
        }


def _creator(task: str) -> Any:
    return resolve_name(str(gymnasium.spec(TASKS[task].id).entry_point))


@cache
def _varied(creator: type) -> Callable[..., VariedArm]:
    return type(f"Varied{creator.__name__}", (VariedArm, creator), {})


def build(
    name: str,
    control_hz: float,
    end_on_success: bool,
    variation: Variation | None = None,
    acceleration: int = ACCELERATION,
) -> VariedArm:
    """Create the environment of a task in TASKS: actions are absolute joint targets (6,) in rad; it never truncates.

    Observations are so101-nexus's own state (S,) and `info["success"]` its own criterion; `end_on_success` terminates
    the episode on success. A control period is a whole number of physics steps of about TIMESTEP_S. `acceleration`: of
    the servos (`sim.ramp`); 0: their setpoints are at the targets at once.
    """
    creator = _creator(name)
    substeps = max(1, round(1 / control_hz / TIMESTEP_S))
    physics = PhysicsConfig(
        timestep_s=1 / control_hz / substeps,
        control_period_s=1 / control_hz,
        integrator="implicitfast",  # these three are so101-nexus's preset for CPUs
        noslip_iterations=3,
        tolerance=1e-8,
    )
    env = _varied(creator)(
        config=creator.default_config_cls(
            physics=physics, render=RenderConfig(quality=PLAIN), terminate_on_success=end_on_success
        ),
        control_mode="pd_joint_pos",
    )
    env.acceleration = acceleration
    if variation is not None:
        env.vary(variation)
    return env


def bare(env: gymnasium.Env) -> VariedArm:
    """Return the environment that `build` created, without the wrappers around it."""
    arm = env.unwrapped
    assert isinstance(arm, VariedArm)
    return arm


def diverged(env: VariedArm) -> bool:
    """Return whether the physics diverged since the reset; MuJoCo then silently restarts from the initial state."""
    counts = env.data.warning.number
    bad = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
    return any(counts[kind.value] for kind in bad)


def components(env: gymnasium.Env | str) -> dict[str, slice]:
    """Return the slice of each component of the observation (S,), by name, of an environment or a task's name."""
    parts, start = {}, 0
    config = _creator(env).default_config_cls() if isinstance(env, str) else bare(env).config
    for part in config.observations or ():
        parts[part.name] = slice(start, start + part.size)
        start += part.size
    return parts


def limits(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest joint targets (6,) in rad."""
    space = bare(env).action_space
    return space.low.astype(np.float64), space.high.astype(np.float64)


def positions(env: gymnasium.Env) -> np.ndarray:
    """Return the joint encoders' readings (6,) in rad."""
    return bare(env).data.qpos[: len(JOINTS)].copy()
