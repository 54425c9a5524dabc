"""What to do, in words, beside what else is observed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gymnasium
from gymnasium import spaces

from envs.sentences import CHARACTERS, LONGEST, PARAPHRASES, check, other_words
from worldmodel.mistakes import Mistake
from worldmodel.senses import LANGUAGE_KEY

if TYPE_CHECKING:
    from envs.settings import TaskConfig


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
        self.observation_space = spaces.Dict({**env.observation_space, LANGUAGE_KEY: text})

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode. Raises ValueError, one line, for a sentence that is none."""
        self._said = check(self._own if self.sentence is None else self.sentence, LANGUAGE_KEY)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation | {LANGUAGE_KEY: self._said}, info

    def step(self, action):
        """One control step; the sentence is the episode's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation | {LANGUAGE_KEY: self._said}, reward, terminated, truncated, info


def say(envs: Sequence[gymnasium.Env], task: "TaskConfig", sentence: str, first: int = 0) -> None:
    """Have environments of a task say a sentence; where it is empty, each its task in other words, one after the other.

    `first` is the number of the first.

    Raises:
        ValueError: a task that has no other words.
    """
    if lacking := [part.name for part in task.parts if not sentence and part.name not in PARAPHRASES]:
        raise Mistake(f"paraphrases=true: there are none of {', '.join(lacking)}; of {', '.join(PARAPHRASES)}")
    for number, env in enumerate(envs, first):
        words = other_words(number // len(task.parts))  # so that each of several tasks is said in each of its ways
        if sentence:
            env.set_wrapper_attr("sentence", sentence)
        elif task.name == "multi":
            env.get_wrapper_attr("say")(words)
        else:
            env.set_wrapper_attr("sentence", words[task.name])
