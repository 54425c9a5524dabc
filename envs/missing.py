"""Senses that are missing for a while: dark cameras, and senses dropped on purpose; `mask.<sense>` says so.

A mask, bool (1,), is the environment's own form of what `worldmodel.observation.Observation` holds.
"""

import warnings
from collections.abc import Mapping

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.task_env import by_key
from sim.renderer import shows
from worldmodel.errors import UserError
from worldmodel.senses import IMAGE_KEY_PREFIX, key, name

PATIENCE = 3  # consecutive blank frames before a warning

Observation = dict[str, np.ndarray | str]
"""An observation by LeRobot's keys: arrays of numbers and frames, and the instruction."""


class Masked(gymnasium.Wrapper):
    """Add `mask.<sense>` for each camera and for each sense in `drop`: False while the sense is missing.

    A camera is missing while its frame shows nothing (`sim.renderer.shows`); after PATIENCE such frames in a row comes
    a warning, once per camera. A sense in `drop` is missing from that control step of each episode on (0: the reset),
    and its values are then zero or blank.

    Raises:
        ValueError: for a sense in `drop` that the environment lacks or a step below 0; one line.
    """

    def __init__(self, env: gymnasium.Env, drop: Mapping[str, int] | None = None):
        super().__init__(env)
        space, self._drop, self._step = by_key(env), dict(drop or {}), 0
        for sense, step in self._drop.items():
            if key(sense) not in space.spaces:
                raise UserError(f"{sense}: no sense of this environment, which has {', '.join(map(name, space))}")
            if step < 0:
                raise UserError(f"{sense}: missing from control step {step} on; at least 0 (0: the reset)")
        self._dark = {name(each): 0 for each in space if each.startswith(IMAGE_KEY_PREFIX)}  # blank frames in a row
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

    def _masked(self, observation: Observation) -> Observation:
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
