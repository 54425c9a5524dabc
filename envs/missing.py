"""Senses that can be missing: what an observation says about it."""

from collections.abc import Iterable

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.senses import key, mask_key
from worldmodel.mistakes import Mistake

Observation = dict[str, np.ndarray | str | tuple[str, ...]]
"""What an environment shows, by LeRobot's keys: numbers and frames, and in words what is to be done; one or several."""


def with_masks(env: gymnasium.Env, senses: Iterable[str]) -> spaces.Dict:
    """The environment's observations, and a mask of each of the senses. Raises ValueError for one that it lacks."""
    space = env.observation_space
    known = [name.removeprefix(key("")) for name in space if name.startswith(key(""))]
    for sense in senses:
        if sense not in known:
            raise Mistake(f"{sense}: no sense of this environment, which has {', '.join(known)}")
    return spaces.Dict({**space.spaces, **{mask_key(sense): spaces.Box(0, 1, (1,), np.bool_) for sense in senses}})


def masked(observation: Observation, there: dict[str, bool]) -> Observation:
    """An observation that says which senses are `there`; one that was missing before stays so."""
    before = {sense: bool(np.all(observation.get(mask_key(sense), True))) for sense in there}
    return {**observation, **{mask_key(sense): np.array([there[sense] and before[sense]]) for sense in there}}
