"""Compute a task's state from a real robot's readings with the same code that computes it in training.

The estimator holds an instance of the task's environment that is never acted in: its joints are set to the robot's, its
object to where the real one is, and its state is read out, for now or for some control steps ahead.
"""

from dataclasses import replace
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np

from envs.arm import JointTargets
from envs.make import make
from envs.settings import TaskConfig
from policies.settings import QUANTITIES
from sim.so101.joints import Targets
from sim.so101.tasks import REST

CORRECTION = 0.3
"""Fraction of the position prediction error, divided by the elapsed time, added to the predicted joint velocity."""
DOUBT_RAD_S = 0.3
"""Prediction error, likewise divided by the time, above which the prediction is discarded (e.g. a joint held by hand)
and the velocity is the difference of the readings over that time."""
STILL = ("so101-touch", "so101-look-at", "so101-move")
"""Tasks whose scene is fully described by the place of one object, which does not move."""

Bodies = tuple[np.ndarray, np.ndarray]


class Reading(NamedTuple):
    """An arm as it was last read: joint angles (6,), their velocities (6,), and the target (6,) that had been sent.

    `setpoint` (6,), `pace` (6,): where its servos are on their ramps, if it moves as in training (`sim.ramp`).
    """

    joints: np.ndarray
    speed: np.ndarray
    sent: np.ndarray
    setpoint: np.ndarray
    pace: list[float]


class StateEstimator:
    """Reproduces what `task` would observe for an arm that is read from outside. Angles in rad, places in metres.

    Without `observed`, the state is not perceived and `state` returns an empty array. `start`: joint angles (6,) at the
    start of the episode set up by `lay_out`.
    """

    def __init__(self, task: TaskConfig, observed: bool = True):
        env = self._env = make(replace(task, start=REST))
        while not isinstance(env, JointTargets):
            assert isinstance(env, gymnasium.Wrapper)
            env = env.env
        self._arm, self._inner, self._observed = env, env.arm, observed
        self._last: Reading | None = None
        self._bodies = _bodies(self._inner.data)

    @property
    def targets(self) -> Targets:
        """The conversion from the task's actions to joint targets."""
        return self._arm.targets

    def lay_out(self, seed: int) -> None:
        """Set up the scene of an episode as in training: the arm's start and the object's place."""
        self._env.reset(seed=seed)
        self.start = self._inner.data.qpos[:6].copy()
        self._last, self._bodies = None, _bodies(self._inner.data)

    def aim(self, place: np.ndarray) -> None:
        """Move the task's object or target to `place` (3,), relative to the arm's base: x forward, y left, z up."""
        place = np.asarray(place, float)
        data = self._inner.data
        if self._inner.model.nmocap:
            data.mocap_pos[0] = place
        elif hasattr(self._inner, "_target_pos"):  # so101-nexus tasks whose target is not a body
            self._inner._target_pos[:] = place
        else:
            data.qpos[6:9] = place
        self._bodies = _bodies(data)

    def follow(self, reading: np.ndarray, sent: np.ndarray, bodies: Bodies | None = None, steps: int = 1) -> None:
        """Take in a reading (6,) of the joints, `steps` control steps after the target `sent` (6,) was given.

        `bodies`: where the scene's objects are now, if known; otherwise they are assumed not to have moved. Velocities
        are the ones MuJoCo predicts for that target, corrected by the prediction error of the reading.
        """
        data, dt = self._inner.data, steps * self._inner.control_dt
        if self._last is None:
            speed: np.ndarray = np.zeros(6)
            self._inner.setpoint, self._inner.pace = sent.copy(), [0.0] * 6
        else:
            last = self._place()
            for _ in range(steps):
                self._inner.advance(sent)
            off = (reading - data.qpos[:6]) / dt
            plain = (reading - last.joints) / dt
            speed = np.where(np.abs(off) > DOUBT_RAD_S, plain, data.qvel[:6] + CORRECTION * off)
        self._last = Reading(reading.copy(), speed, sent.copy(), self._inner.setpoint, self._inner.pace)
        self._bodies = bodies or self._bodies

    def state(self, ahead: np.ndarray) -> np.ndarray:
        """Return the state (S,) float32 after targets `ahead` (n, 6), one per control step; n = 0 is the state now."""
        if not self._observed:
            return np.zeros(0, np.float32)
        target = self._place().sent
        for target in ahead:
            self._inner.advance(target)
        self._arm.target = target
        if not len(ahead):  # otherwise mj_step has computed it, as in training
            mujoco.mj_forward(self._inner.model, self._inner.data)
        observation, _ = self._inner._observe()
        return self._env.get_wrapper_attr("state")(self._arm.observe(np.asarray(observation)))

    @property
    def first_axis(self) -> tuple[np.ndarray, float]:
        """Where the vertical axis of the first joint is, (x, y) in metres, and 1 if it turns to the left, else -1."""
        data = self._inner.data
        return data.xanchor[0, :2].copy(), float(np.sign(data.xaxis[0, 2]))

    def hand(self, joints: np.ndarray) -> np.ndarray:
        """Return the hand's pose (7,), metres and a quaternion, at joint angles (6,)."""
        self._inner.data.qpos[:6] = joints
        mujoco.mj_kinematics(self._inner.model, self._inner.data)
        return np.array(self._inner._get_tcp_pose(), float)

    def success(self) -> bool:
        """Whether the task's own criterion judges it a success, with the arm where it was last read."""
        self._place()
        mujoco.mj_forward(self._inner.model, self._inner.data)
        self._arm.success = bool(self._inner._observe()[1]["success"])
        return self._arm.success

    @property
    def names(self) -> list[str]:
        """The names of the task's quantities."""
        return [*self._env.metadata[QUANTITIES]]

    def quantities(self) -> np.ndarray:
        """Return the task's named quantities (Q,) float32 (`envs.quantities`), with the arm where it was last read."""
        self.success()
        return self._env.get_wrapper_attr("named").read(None)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _place(self) -> Reading:
        """Set the scene to the last reading, and return that. Raises ValueError if nothing was read in this episode."""
        if self._last is None:
            raise ValueError("the arm has not been read yet, so its state is unknown")
        data = self._inner.data
        data.qpos[:6], data.qvel[:6] = self._last.joints, self._last.speed
        data.qpos[6:], data.qvel[6:] = self._bodies
        data.ctrl[:] = self._last.setpoint
        self._inner.setpoint, self._inner.pace = self._last.setpoint, self._last.pace
        data.qacc_warmstart[:] = 0  # so that predictions do not depend on history
        return self._last


def scene_bodies(env) -> Bodies:
    """Return the positions and velocities of the objects in a simulated robot's scene."""
    return _bodies(env.unwrapped.data)


def _bodies(data) -> Bodies:
    return data.qpos[6:].copy(), data.qvel[6:].copy()
