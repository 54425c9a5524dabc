"""Senses that fail mid-episode, to test how an agent copes."""

from collections.abc import Mapping

import gymnasium
import numpy as np

from envs.missing import Observation, masked, with_masks
from worldmodel.mistakes import Mistake
from worldmodel.senses import key


class Dropping(gymnasium.Wrapper):
    """Drop senses from a given control step of each episode on: values become zero or blank, `mask.<sense>` False.

    `schedule` maps a sense (`state`, `images.main`) to the first control step at which it is missing; 0 is the reset.
    Blackout detection (`envs.blackout`) belongs inside this wrapper.

    Raises:
        ValueError: for a sense that the environment lacks or a step below 0; one line.
    """

    def __init__(self, env: gymnasium.Env, schedule: Mapping[str, int]):
        super().__init__(env)
        self.observation_space = with_masks(env, schedule)
        for sense, step in schedule.items():
            if step < 0:
                raise Mistake(f"{sense}: missing from control step {step} on; at least 0 (0: the reset)")
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
