"""Blackout detection for cameras: a frame of a single colour, as from a loose cable, counts as missing."""

import warnings

import gymnasium
import numpy as np

from envs.missing import Observation, masked, with_masks
from envs.space_checks import by_key
from sim.frames import shows
from worldmodel.senses import IMAGE_KEY_PREFIX, key

PATIENCE = 3  # consecutive blank frames before a warning


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
