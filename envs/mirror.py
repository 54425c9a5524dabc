"""A task's observation from a robot's own readings, by the code that makes it in training.

The mirror is the task's environment, never acted in: its joints are put where the robot's are, its object where the
robot's is, and it is asked what it sees, now or some control steps later.
"""

from collections.abc import Callable

import mujoco
import numpy as np

from envs.arm import JointTargets
from envs.make import make
from envs.settings import TaskConfig
from sim.so101.targets import Targets
from worldmodel.senses import STATE_KEY

CORRECTION = 0.3
"""The share of what a step's reading was off the expected one that is put down to the joints' velocity."""
DOUBT_RAD_S = 0.3
"""From here on what was expected is wrong, as of a joint held by hand: the velocity is the readings' difference."""
STILL = ("so101-touch", "so101-look-at", "so101-move")
"""Tasks that need to know of the scene only where one thing is, which stays there."""

Bodies = tuple[np.ndarray, np.ndarray]


class Mirror:
    """What `task` would have observed of an arm that is read from outside. Angles are in rad, places in metres.

    `told`: whether the state is perceived at all; else it is empty.
    """

    def __init__(self, task: TaskConfig, told: bool = True):
        self._env, self._told = make(task), told
        self._arm = self._env
        while not isinstance(self._arm, JointTargets):
            self._arm = self._arm.env
        self._inner = self._arm.unwrapped
        self._see = _path(self._env, self._arm)
        self._read: np.ndarray | None = None
        self._bodies: Bodies | None = None

    @property
    def state_size(self) -> int:
        """Numbers of a state."""
        return self._env.observation_space[STATE_KEY].shape[0]

    @property
    def targets(self) -> Targets:
        """How the task's actions become joint targets."""
        return self._arm.targets

    @property
    def start(self) -> np.ndarray:
        """Where the joints (6,) are at the beginning of the episode that was laid out."""
        return self._start

    def lay_out(self, seed: int) -> None:
        """Lay out the scene of an episode as training does: where the arm begins, where the object is."""
        self._env.reset(seed=seed)
        self._start = self._inner.data.qpos[:6].copy()
        self._read, self._bodies = None, _bodies(self._inner.data)

    def aim(self, place: np.ndarray) -> None:
        """Put what the task is about at `place` (3,), from the arm's base: x forward, y left, z up."""
        place = np.asarray(place, float)
        data = self._inner.data
        if self._inner.model.nmocap:
            data.mocap_pos[0] = place
        elif hasattr(self._inner, "_target_pos"):  # so101-nexus's, of a task whose target is no body
            self._inner._target_pos[:] = place
        else:
            data.qpos[6:9] = place
        self._bodies = _bodies(data)

    def follow(self, reading: np.ndarray, sent: np.ndarray, bodies: Bodies | None = None, steps: int = 1) -> None:
        """Take in the joints' reading (6,), so many control steps after `sent` (6,), the last target.

        `bodies`: where the scene's things are now, if somebody knows; else they are still where they were.
        Velocities are those that MuJoCo expects of that target, corrected by what the reading shows otherwise.
        """
        data, dt = self._inner.data, steps * self._inner.control_dt
        if self._read is None:
            speed = np.zeros(6)
        else:
            self._place(self._read, self._speed, self._bodies)
            for _ in range(steps):
                self._advance(sent)
            off = (reading - data.qpos[:6]) / dt
            plain = (reading - self._read) / dt
            speed = np.where(np.abs(off) > DOUBT_RAD_S, plain, data.qvel[:6] + CORRECTION * off)
        self._read, self._speed, self._sent = reading.copy(), speed, sent.copy()
        self._bodies = bodies or self._bodies

    def state(self, ahead: np.ndarray) -> np.ndarray:
        """The state (S,) float32 after the targets `ahead` (n, 6), one a control step; n = 0: the state now."""
        if not self._told:
            return np.zeros(0, np.float32)
        self._place(self._read, self._speed, self._bodies)
        target = self._sent
        for target in ahead:
            self._advance(target)
        self._arm.target = target
        if not len(ahead):  # else the last step has computed it all, as it has when training looks
            mujoco.mj_forward(self._inner.model, self._inner.data)
        observation, _ = self._inner._observe()
        return self._see(self._arm._see(observation))[STATE_KEY]

    def success(self) -> bool:
        """Whether the task is done by its own judgement, if the arm is where it was last read."""
        self._place(self._read, self._speed, self._bodies)
        mujoco.mj_forward(self._inner.model, self._inner.data)
        return bool(self._inner._observe()[1]["success"])

    def close(self) -> None:
        """End the environment."""
        self._env.close()

    def _place(self, joints: np.ndarray, speed: np.ndarray, bodies: Bodies) -> None:
        data = self._inner.data
        data.qpos[:6], data.qvel[:6] = joints, speed
        data.qpos[6:], data.qvel[6:] = bodies
        data.qacc_warmstart[:] = 0  # so that what is expected depends on nothing else

    def _advance(self, target: np.ndarray) -> None:
        data = self._inner.data
        data.ctrl[:] = target
        mujoco.mj_step(self._inner.model, data, nstep=self._inner._N_SUBSTEPS)


def scene_bodies(env) -> Bodies:
    """Where the things of a simulated robot's scene are, and how they move."""
    return _bodies(env.unwrapped.data)


def _bodies(data) -> Bodies:
    return data.qpos[6:].copy(), data.qvel[6:].copy()


def _path(env, inner) -> Callable[[dict], dict]:
    """What the wrappers from `inner` outwards make of its observation."""
    steps = []
    while env is not inner:
        if hasattr(env, "observation"):
            steps.append(env.observation)
        env = env.env
    steps.reverse()

    def see(observation: dict) -> dict:
        for step in steps:
            observation = step(observation)
        return observation

    return see
