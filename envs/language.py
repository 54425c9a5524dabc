"""What to do, in words, beside what else is observed."""

import gymnasium
from gymnasium import spaces

from envs.senses import LANGUAGE, key
from envs.sentences import CHARACTERS, LONGEST, check

KEY = key(LANGUAGE)


class Spoken(gymnasium.Wrapper):
    """Adds `observation.language`, a string of `gymnasium.spaces.Text`; vectors give a tuple of strings.

    `sentence` is what to say instead of the task's own from the next reset on, if it is not None. Each environment of a
    vector can be given another: `vector.set_attr("sentence", [...])`.
    """

    def __init__(self, env: gymnasium.Env, sentence: str):
        """Say `sentence` in `env`, whose observations are a Dict."""
        super().__init__(env)
        self.sentence: str | None = None
        self._own = self._said = sentence
        text = spaces.Text(LONGEST, charset=CHARACTERS)
        self.observation_space = spaces.Dict({**env.observation_space, KEY: text})

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode. Raises ValueError, one line, for a sentence that is none."""
        self._said = check(self._own if self.sentence is None else self.sentence, KEY)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation | {KEY: self._said}, info

    def step(self, action):
        """One decision; the sentence is the episode's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation | {KEY: self._said}, reward, terminated, truncated, info
