"""The task's sentence as part of the observation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gymnasium
from gymnasium import spaces

from envs.sentences import CHARACTERS, LONGEST, PARAPHRASES, check, other_words
from envs.spaces import by_key
from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY

if TYPE_CHECKING:
    from envs.settings import TaskConfig


class Spoken(gymnasium.Wrapper):
    """Add `observation.language`, a string of `gymnasium.spaces.Text`; vectors return a tuple of strings.

    The attribute `sentence`, if not None, replaces the task's own sentence from the next reset on. Each environment of
    a vector can be given a different one: `vector.set_attr("sentence", [...])`.
    """

    def __init__(self, env: gymnasium.Env, sentence: str):
        """Add `sentence` to the observations of `env`, which must be a Dict."""
        super().__init__(env)
        self.sentence: str | None = None
        self._own = self._said = sentence
        text = spaces.Text(LONGEST, charset=CHARACTERS)
        self.observation_space = spaces.Dict({**by_key(env), LANGUAGE_KEY: text})

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode. Raises ValueError, one line, for an invalid sentence."""
        self._said = check(self._own if self.sentence is None else self.sentence, LANGUAGE_KEY)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation | {LANGUAGE_KEY: self._said}, info

    def step(self, action):
        """Advance one control step; the sentence stays the same throughout an episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation | {LANGUAGE_KEY: self._said}, reward, terminated, truncated, info


def say(envs: Sequence[gymnasium.Env], task: "TaskConfig", sentence: str, first: int = 0) -> None:
    """Set the sentence of a task's environments; if it is empty, give each a paraphrase of its task in turn.

    `first` is the number of the first environment, at which the count of the paraphrases starts.

    Raises:
        ValueError: if `sentence` is empty and a task has no paraphrases.
    """
    if lacking := [part.name for part in task.parts if not sentence and part.name not in PARAPHRASES]:
        raise UserError(f"paraphrases=true: there are none of {', '.join(lacking)}; of {', '.join(PARAPHRASES)}")
    for number, env in enumerate(envs, first):
        words = other_words(number // len(task.parts))  # so that every task goes through all its paraphrases
        if sentence:
            env.set_wrapper_attr("sentence", sentence)
        elif task.name == "multi":
            env.get_wrapper_attr("say")(words)
        else:
            env.set_wrapper_attr("sentence", words[task.name])
