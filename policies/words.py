"""Sentences as vectors: what `observation.language` is to the model.

The encoder is frozen and static: a sentence is the mean of its tokens' vectors, from the table of 32,000 that WordLlama
(MIT) distilled from large language models' own. So it costs microseconds, and the order of the words is lost on it.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.mistakes import Mistake
from worldmodel.senses import LANGUAGE_KEY

TABLE, TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"


class Words:
    """Turns sentences into vectors of `size` numbers and length 1; each sentence once, whoever asks how often.

    Capitals, spaces and a full stop at the end make no difference. Nothing is loaded before the first sentence.
    """

    size = 256

    def __init__(self):
        """Know no sentence yet."""
        self._vectors: dict[str, Tensor] = {}
        self._table: Tensor | None = None
        self._asked: tuple[tuple[str | None, bool], ...] | None = None
        self._together = torch.empty(0, self.size)

    def encode(self, sentences: Sequence[str | None]) -> Float[Tensor, "B T"]:
        """The vectors of B sentences, float32.

        Raises:
            ValueError: a sentence is missing or has no words; one line.
        """
        return torch.stack([self._vector(sentence, at) for at, sentence in enumerate(sentences)])

    def vectors(
        self, strings: tuple[str | None, ...], there: Sequence[bool] | np.ndarray | None = None
    ) -> Float[Tensor, "B T"]:
        """The vectors of what B environments say at a step: `encode`, but for free while they say the same.

        `there` says whose counts (None: everyone's); of the others' it is zeros, text or not. The tensor is handed out
        again while nothing changes: it is not to be written to.
        """
        asked = tuple(zip(strings, map(bool, [True] * len(strings) if there is None else there), strict=True))
        if asked != self._asked:
            absent = torch.zeros(self.size)
            self._together = torch.stack(
                [self._vector(text, at) if here else absent for at, (text, here) in enumerate(asked)]
            )
            self._asked = asked
        return self._together

    def known(self, sentences: Sequence[str]) -> Float[Tensor, "K T"] | None:
        """The vectors of the sentences said in a training, as `Agent` takes them; None where none was."""
        return self.encode(sentences) if sentences else None

    def _vector(self, sentence: str | None, at: int) -> Float[Tensor, " T"]:
        if sentence not in self._vectors:
            self._vectors[sentence] = self._encode(_plain(sentence, at))
        return self._vectors[sentence]

    def _encode(self, sentence: str) -> Float[Tensor, " T"]:
        if self._table is None:
            self._load()
        tokens = self._tokenizer.encode(sentence, add_special_tokens=False).ids  # of one sentence, so on one thread
        return torch.nn.functional.normalize(self._table[tokens].float().mean(0), dim=0)

    def _load(self) -> None:
        """Read the files themselves: the package's own loader looks for one elsewhere, and sets up logging."""
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        found = find_spec("wordllama")
        if found is None or found.origin is None:
            raise Mistake(f"{LANGUAGE_KEY}: the package wordllama, which holds the words' vectors, is not installed")
        folder = Path(found.origin).parent
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        (self._table,) = load_file(folder / TABLE).values()


WORDS = Words()
"""One for the process: the table is read once, and each sentence is encoded once."""

SHARPNESS = 40.0
"""Of the choice among sentences: one whose cosine is smaller by 0.1 counts for a fiftieth."""


def recognised(vectors: Float[Tensor, "B T"], heard: Float[Tensor, "K T"]) -> Float[Tensor, "B T"]:
    """Sentences (length 1) as those that were heard in training, by their likeness to each: what is near to one is it.

    A policy knows nothing of vectors that it never met, and a sentence in other words is one. Those of three tasks of a
    walker lie at a cosine of 0.45 to their own, 0.1 to 0.2 to the others, and 59 of 60 nearest to their own; training
    with vectors as far from the sentences, at random, left the sentences themselves hard to tell apart.
    """
    near = (SHARPNESS * vectors @ heard.T).softmax(-1)
    return torch.nn.functional.normalize(near @ heard, dim=-1)


def _plain(sentence: str | None, at: int) -> str:
    """The sentence without what makes no difference, or ValueError."""
    words = "" if sentence is None else " ".join(sentence.casefold().split()).rstrip(".! ")
    if not words:
        raise Mistake(
            f"{LANGUAGE_KEY}: sentence {at} is {sentence!r}, without text; it says what to do, e.g. 'walk forward'"
        )
    return words
