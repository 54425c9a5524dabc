"""What can be put around a task's environment: something breaks, senses are missing, tasks take turns, faults reported.

Something breaks: to see what an agent then notices, and does; unlike domain randomisation (`sim.variation`), which an
agent trains under, that begins at a step and holds to the end. Senses are missing: dark cameras, and senses dropped on
purpose; `mask.<sense>`, bool (1,), says so, the environment's own form of `worldmodel.observation.Observation.present`.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.quantities import simulation
from envs.settings import AWAY, DEAD, FLIP, HEAVIER, JAM, MOVED, START, WEAK, FaultConfig
from envs.task_env import EnvironmentFault, by_key
from policies.settings import FAULT, QUANTITIES
from sim.renderer import shows
from worldmodel.errors import UserError
from worldmodel.senses import IMAGE_KEY_PREFIX, key
from worldmodel.senses import name as sense_of

CHANGED = ("dof_armature", "actuator_gear", "body_mass", "body_inertia")  # what a fault changes of a MuJoCo model
ELSEWHERE = 0.3  # the most by which a joint starts elsewhere, in m or rad
STUCK = 1e5  # the inertia of a jammed joint, in kg m2 or kg: stable under each integrator, unlike friction


class Faulty(gymnasium.Wrapper):
    """An environment whose simulated body breaks; each reset mends it. Raises UserError without MuJoCo's motors."""

    def __init__(self, env: gymnasium.Env, fault: FaultConfig):
        super().__init__(env)
        self.fault, self._step = fault, 0
        self._whole: dict[str, np.ndarray] = {}  # what of the model has changed, as it was before
        model, _ = simulation(env)
        if model is None or not model.nu:
            raise UserError(f"fault.kind={fault.kind}: only where MuJoCo simulates motors")
        if fault.kind in (MOVED, AWAY) and (model.jnt_type != 0).all():
            raise UserError(f"fault.kind={fault.kind}: only where things lie free, as the SO-101's cube does")

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode with a whole body."""
        self.mend(self.fault.kind)
        self._released()
        self._step = 0
        self._drawn = np.random.default_rng(seed)
        returned = self.env.reset(seed=seed, options=options)
        self._break()
        if self.fault.kind == START:  # the first of its steps at rest shows where
            returned = self.env.step(np.zeros(self.action_space.shape, np.float32))[0], returned[1]
        return returned

    def step(self, action: np.ndarray):
        """Advance one control step."""
        if self._released():
            self.mend(self.fault.kind)
        returned = self.env.step(action)
        self._step += 1
        self._break()
        return returned

    def mend(self, kind: str) -> bool:
        """Make the body whole if this is what broke, for a user's tool in simulation; return whether it was."""
        mended = bool(self._whole) and kind == self.fault.kind
        if mended:
            for name, value in self._whole.items():
                getattr(self._model, name)[:] = value
            self._whole = {}
        return mended

    def _released(self) -> bool:
        """Take away the file that mends it, and return whether it was there."""
        there = bool(self.fault.mended_by) and os.path.exists(self.fault.mended_by)
        if there:
            os.remove(self.fault.mended_by)
        return there

    def _break(self) -> None:
        """Change the model if it is time."""
        if self._step != self.fault.at_step:
            return
        model, data = simulation(self.env)
        self._model = model
        self._whole = {name: np.array(getattr(model, name)) for name in CHANGED}
        motor = int(self._drawn.integers(model.nu))
        if self.fault.kind == JAM:
            degree = int(model.jnt_dofadr[model.actuator_trnid[motor, 0]])
            model.dof_armature[degree] = STUCK
            data.qvel[degree] = 0
        elif self.fault.kind == FLIP:
            model.actuator_gear[motor] *= -1
        elif self.fault.kind == WEAK:
            model.actuator_gear[:] /= 3
        elif self.fault.kind == DEAD:
            model.actuator_gear[motor] = 0
        elif self.fault.kind in (MOVED, AWAY):
            free, angle = model.jnt_qposadr[model.jnt_type == 0], self._drawn.uniform(-np.pi, np.pi)
            data.qpos[free] += 1.0 if self.fault.kind == AWAY else 0.08 * np.cos(angle)
            data.qpos[free + 1] += 0.0 if self.fault.kind == AWAY else 0.08 * np.sin(angle)
        elif self.fault.kind == START:
            import mujoco

            single = model.jnt_qposadr[model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE)]
            data.qpos[single] += self._drawn.uniform(-ELSEWHERE, ELSEWHERE, len(single))
            mujoco.mj_forward(model, data)
        else:
            factor = 1.1 if self.fault.kind == HEAVIER else 1.5
            model.body_mass[:] *= factor
            model.body_inertia[:] *= factor


PATIENCE = 3  # consecutive blank frames before a warning


class Masked(gymnasium.Wrapper):
    """Add `mask.<sense>` for each camera and for each sense in `drop`: False while the sense is missing.

    A camera is missing while its frame shows nothing (`sim.renderer.shows`); after PATIENCE such frames in a row comes
    a warning, once per camera. A sense in `drop` is missing from that control step of each episode on (0: the reset),
    and its values are then zero or blank. Raises ValueError, one line, for a sense that is not there or a step below 0.
    """

    def __init__(self, env: gymnasium.Env, drop: Mapping[str, int] | None = None):
        super().__init__(env)
        space, self._drop, self._step = by_key(env), dict(drop or {}), 0
        for sense, step in self._drop.items():
            if key(sense) not in space.spaces:
                raise UserError(f"{sense}: no sense of this environment, which has {', '.join(map(sense_of, space))}")
            if step < 0:
                raise UserError(f"{sense}: missing from control step {step} on; at least 0 (0: the reset)")
        self._dark = {sense_of(each): 0 for each in space if each.startswith(IMAGE_KEY_PREFIX)}  # blank frames in a row
        self._warned: set[str] = set()
        mask = spaces.Box(0, 1, (1,), np.bool_)  # type: ignore[arg-type]  # Gymnasium's types know no booleans
        masks = {f"mask.{sense}": mask for sense in (*self._dark, *self._drop)}
        self.observation_space = spaces.Dict({**space.spaces, **masks})

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode."""
        self._step = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._masked(observation), info

    def step(self, action: np.ndarray):
        """Advance one control step."""
        self._step += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._masked(observation), reward, terminated, truncated, info

    def _masked(self, observation: dict[str, np.ndarray | str]) -> dict[str, np.ndarray | str]:
        present = {camera: self._shows(camera, np.asarray(observation[key(camera)])) for camera in self._dark}
        blank = {}
        for sense, first in self._drop.items():
            present[sense] = present.get(sense, True) and self._step < first
            if self._step >= first:
                value = observation[key(sense)]
                blank[key(sense)] = " " if isinstance(value, str) else np.zeros_like(value)
        return {**observation, **blank, **{f"mask.{sense}": np.array([here]) for sense, here in present.items()}}

    def _shows(self, camera: str, frame: np.ndarray) -> bool:
        self._dark[camera] = 0 if shows(frame) else self._dark[camera] + 1
        if self._dark[camera] == PATIENCE and camera not in self._warned:
            self._warned.add(camera)
            warnings.warn(
                f"{camera}: {PATIENCE} frames in a row of one colour (about {frame.mean():.0f} of 255); "
                "the sense counts as missing while that lasts",
                stacklevel=2,
            )
        return not self._dark[camera]


CHOICE = 0x7A5C
"""Seed-sequence word that keeps the choice of a task independent of what the task draws from the same seed."""


class Reporting(gymnasium.Wrapper):
    """Reports a fault as `info[FAULT]`, the episode truncated, instead of raising it, except from the first `reset`."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._last: dict[str, Any] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode; after a fault it has not begun, and the next call is to be another reset."""
        try:
            self._last, info = self.env.reset(seed=seed, options=options)
        except EnvironmentFault as fault:
            if self._last is None:
                raise
            return self._last, {FAULT: fault}
        return self._last, info

    def step(self, action: np.ndarray):
        """Advance one control step."""
        try:
            self._last, *rest = self.env.step(action)
        except EnvironmentFault as fault:
            return self._last, 0.0, False, True, {FAULT: fault}
        return self._last, *rest


class Multi(gymnasium.Wrapper):
    """One of several environments per episode; `info["task"]` names it.

    The seed chooses the task, uniformly, unless `fix` was called; the episode is otherwise identical to that task's own
    for that seed. `env`, and everything reached through it (`unwrapped`, rendering), belongs to the episode's task;
    `parts` are the environments of all tasks by name.
    """

    def __init__(self, parts: dict[str, gymnasium.Env]):
        """Combine environments by task name. Raises ValueError if their observations, actions or rates differ."""
        self.parts, self._names = parts, list(parts)
        self._task = self._names[0]
        super().__init__(parts[self._task])
        first = _facts(self.env)
        for name, env in parts.items():
            for what, value in _facts(env).items():
                if value != first[what]:
                    one, other = (" ".join(str(each).split()) for each in (first[what], value))
                    raise UserError(f"task.names: {self._task} and {name} have different {what}: {one}, {other}")
        limits = [env.metadata["episode_limit"] for env in parts.values()]
        self.metadata = {**self.env.metadata, "episode_limit": None if None in limits else max(limits)}
        units = [env.metadata[QUANTITIES] for env in parts.values()]
        common = {name: unit for name, unit in units[0].items() if all(name in each for each in units)}
        self.metadata[QUANTITIES] = common
        self._known = {name: [[*each].index(q) for q in common] for name, each in zip(parts, units, strict=True)}
        self._generator = np.random.default_rng()
        self._fixed: int | None = None

    def fix(self, number: int) -> None:
        """Use the same task for every episode from the next reset on: number `number` modulo the number of tasks."""
        self._fixed = number % len(self._names)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Choose a task by `seed` and begin an episode of it; without a seed, continue the last seed's sequence."""
        if seed is None:
            seed = int(self._generator.integers(2**32))
        else:
            self._generator = np.random.default_rng([seed, CHOICE, 1])
        chosen = self._fixed
        if chosen is None:
            chosen = int(np.random.default_rng([seed, CHOICE]).integers(len(self._names)))
        self._task = self._names[chosen]
        self.env = self.parts[self._task]
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._labelled(info)

    def step(self, action: np.ndarray):
        """Advance the episode's task by one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._labelled(info)

    def _labelled(self, info: dict) -> dict:
        """Add the task's name, and leave only the quantities that all tasks have."""
        return info | {"task": self._task, QUANTITIES: info[QUANTITIES][self._known[self._task]]}

    def close(self) -> None:
        """Close all environments."""
        for env in self.parts.values():
            env.close()


def _facts(env: gymnasium.Env) -> dict[str, object]:
    """Return what all tasks must have in common, by name."""
    return {**by_key(env).spaces, "actions": env.action_space, "control steps a second": env.metadata["render_fps"]}
