"""Senses that are missing for a while: dark cameras, and senses dropped on purpose; `mask.<sense>` says so.

A mask, bool (1,), is the environment's own form of what `worldmodel.observation.Observation` holds.
"""

import warnings
from collections.abc import Iterable, Mapping

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.senses import mask_key
from envs.spaces import by_key
from sim.frames import shows
from worldmodel.errors import UserError
from worldmodel.senses import IMAGE_KEY_PREFIX, key

PATIENCE = 3  # consecutive blank frames before a warning

Observation = dict[str, np.ndarray | str | tuple[str, ...]]
"""An observation by LeRobot's keys: arrays of numbers and frames, and the sentence (a tuple of them for a vector)."""


def with_masks(env: gymnasium.Env, senses: Iterable[str]) -> spaces.Dict:
    """Add a mask for each of `senses` to the observation space. Raises ValueError for one the environment lacks."""
    space = by_key(env)
    known = [name.removeprefix(key("")) for name in space if name.startswith(key(""))]
    for sense in senses:
        if sense not in known:
            raise UserError(f"{sense}: no sense of this environment, which has {', '.join(known)}")
    return spaces.Dict({**space.spaces, **{mask_key(sense): spaces.Box(0, 1, (1,), np.bool_) for sense in senses}})


def masked(observation: Observation, there: dict[str, bool]) -> Observation:
    """Set each sense's mask from `there` (True: present); a sense already masked as missing stays missing."""
    before = {sense: bool(np.all(observation.get(mask_key(sense), True))) for sense in there}
    return {**observation, **{mask_key(sense): np.array([there[sense] and before[sense]]) for sense in there}}


def watched(env: gymnasium.Env) -> gymnasium.Env:
    """Wrap `env` in `Blackout` if it has any cameras, else return it unchanged."""
    return Blackout(env) if any(name.startswith(IMAGE_KEY_PREFIX) for name in by_key(env)) else env


class Blackout(gymnasium.ObservationWrapper):
    """Add `mask.images.<camera>` for each camera: False while its frame shows nothing.

    The mask depends on the current frame alone, and never sets a mask from an inner wrapper back to True. After
    PATIENCE consecutive blank frames the wrapper warns, once per camera.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._cameras = [name.removeprefix(key("")) for name in by_key(env) if name.startswith(IMAGE_KEY_PREFIX)]
        self.observation_space = with_masks(env, self._cameras)
        self._dark = dict.fromkeys(self._cameras, 0)  # consecutive blank frames
        self._said: set[str] = set()

    def observation(self, observation: Observation) -> Observation:
        """Return the observation with its masks."""
        there = {}
        for camera in self._cameras:
            frame = np.asarray(observation[key(camera)])
            there[camera] = shows(frame)
            self._dark[camera] = 0 if there[camera] else self._dark[camera] + 1
            if self._dark[camera] == PATIENCE and camera not in self._said:
                self._said.add(camera)
                warnings.warn(
                    f"{camera}: {PATIENCE} frames in a row of one colour (about {frame.mean():.0f} of 255); "
                    "the sense counts as missing while that lasts",
                    stacklevel=2,
                )
        return masked(observation, there)


class Dropping(gymnasium.Wrapper):
    """Drop senses from a given control step of each episode on: values become zero or blank, `mask.<sense>` False.

    `schedule` maps a sense (`state`, `images.main`) to the first control step at which it is missing; 0 is the reset.
    `Blackout` belongs inside this wrapper.

    Raises:
        ValueError: for a sense that the environment lacks or a step below 0; one line.
    """

    def __init__(self, env: gymnasium.Env, schedule: Mapping[str, int]):
        super().__init__(env)
        self.observation_space = with_masks(env, schedule)
        for sense, step in schedule.items():
            if step < 0:
                raise UserError(f"{sense}: missing from control step {step} on; at least 0 (0: the reset)")
        self._schedule, self._step = dict(schedule), 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode."""
        self._step = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._lose(observation), info

    def step(self, action: np.ndarray):
        """Advance one control step."""
        self._step += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._lose(observation), reward, terminated, truncated, info

    def _lose(self, observation: Observation) -> Observation:
        there = {sense: self._step < first for sense, first in self._schedule.items()}
        gone = {key(sense): _blank(observation[key(sense)]) for sense, is_there in there.items() if not is_there}
        return masked({**observation, **gone}, there)


def _blank(value: np.ndarray | str | tuple[str, ...]) -> np.ndarray | str:
    return " " if isinstance(value, str) else np.zeros_like(value)
