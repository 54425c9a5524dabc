"""A watch over cameras: a frame of one colour, as a loose cable gives, counts as missing."""

import warnings

import gymnasium

from envs.missing import Observation, masked, with_masks
from envs.senses import key
from sim.frames import shows
from worldmodel.senses import IMAGE_KEY_PREFIX

PATIENCE = 3  # frames in a row before anything is said


def watched(env: gymnasium.Env) -> gymnasium.Env:
    """The environment, its cameras watched if it has any."""
    return Blackout(env) if any(name.startswith(IMAGE_KEY_PREFIX) for name in env.observation_space) else env


class Blackout(gymnasium.ObservationWrapper):
    """Says of each camera with `mask.images.<camera>` whether its frame shows anything.

    That depends on the frame alone. When PATIENCE frames in a row have shown nothing, it warns, once for each camera.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._cameras = [
            name.removeprefix(key("")) for name in env.observation_space if name.startswith(IMAGE_KEY_PREFIX)
        ]
        self.observation_space = with_masks(env, self._cameras)
        self._dark = dict.fromkeys(self._cameras, 0)  # frames in a row
        self._said: set[str] = set()

    def observation(self, observation: Observation) -> Observation:
        """The observation with its masks."""
        there = {}
        for camera in self._cameras:
            frame = observation[key(camera)]
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
