"""Masks in an observation that say whether a sense is present or missing."""

from collections.abc import Iterable

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.senses import mask_key
from envs.space_checks import by_key
from worldmodel.mistakes import Mistake
from worldmodel.senses import key

Observation = dict[str, np.ndarray | str | tuple[str, ...]]
"""An observation by LeRobot's keys: arrays of numbers and frames, and the sentence (a tuple of them for a vector)."""


def with_masks(env: gymnasium.Env, senses: Iterable[str]) -> spaces.Dict:
    """Add a mask for each of `senses` to the observation space. Raises ValueError for one the environment lacks."""
    space = by_key(env)
    known = [name.removeprefix(key("")) for name in space if name.startswith(key(""))]
    for sense in senses:
        if sense not in known:
            raise Mistake(f"{sense}: no sense of this environment, which has {', '.join(known)}")
    return spaces.Dict({**space.spaces, **{mask_key(sense): spaces.Box(0, 1, (1,), np.bool_) for sense in senses}})


def masked(observation: Observation, there: dict[str, bool]) -> Observation:
    """Set each sense's mask from `there` (True: present); a sense already masked as missing stays missing."""
    before = {sense: bool(np.all(observation.get(mask_key(sense), True))) for sense in there}
    return {**observation, **{mask_key(sense): np.array([there[sense] and before[sense]]) for sense in there}}
