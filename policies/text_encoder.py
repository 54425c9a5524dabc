"""Sentence embeddings: the vectors that the model perceives as `observation.language`.

The encoder is frozen and static: a sentence is embedded as the normalised mean of its (text) tokens' vectors, from a
table of 32,000 that WordLlama (MIT licence) distilled from the embeddings of large language models. So encoding takes
microseconds, but ignores word order.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY

TABLE, TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"


class Words:
    """Encodes sentences as cached unit vectors; case, extra space and final stops do not count."""

    size = 256

    def __init__(self):
        """Start with an empty cache."""
        self._vectors: dict[str | None, Tensor] = {}
        self._table: Tensor | None = None

    def encode(
        self, sentences: Sequence[str | None], present: Sequence[bool] | np.ndarray | None = None
    ) -> Float[Tensor, "B T"]:
        """Encode B sentences as float32 vectors (B, T); zeros where none is `present`. Raises ValueError, one line."""
        here = [True] * len(sentences) if present is None else present
        absent = torch.zeros(self.size)
        each = enumerate(zip(sentences, here, strict=True))
        return torch.stack([self._vector(text, at) if known else absent for at, (text, known) in each])

    def _vector(self, sentence: str | None, at: int) -> Float[Tensor, " T"]:
        if sentence not in self._vectors:
            self._vectors[sentence] = self._encode(_plain(sentence, at))
        return self._vectors[sentence]

    def _encode(self, sentence: str) -> Float[Tensor, " T"]:
        if self._table is None:
            self._table = self._load()
        tokens = self._tokenizer.encode(sentence, add_special_tokens=False).ids  # of one sentence, so single-threaded
        return torch.nn.functional.normalize(self._table[tokens].float().mean(0), dim=0)

    def _load(self) -> Float[Tensor, "V T"]:
        """Read tokenizer and table from the package's files, as its own loader looks elsewhere and sets up logging."""
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        found = find_spec("wordllama")
        if found is None or found.origin is None:
            raise UserError(f"{LANGUAGE_KEY}: the package wordllama, which holds the words' vectors, is not installed")
        folder = Path(found.origin).parent
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        (table,) = load_file(folder / TABLE).values()
        return table


WORDS = Words()  # the encoder shared by the whole process: the table is read once, and each sentence is encoded once

SHARPNESS = 40.0
"""Inverse temperature of the softmax over sentences: a cosine lower by 0.1 reduces the weight about fiftyfold."""


def recognised(vectors: Float[Tensor, "*B T"], known: Float[Tensor, "K T"]) -> Float[Tensor, "*B T"]:
    """Map sentence vectors (unit length) to those of the training, `known`, by a softmax over cosine similarity.

    A policy cannot handle vectors it never met, such as those of a paraphrase. For three tasks of a walker, paraphrases
    have a cosine of 0.45 to their own sentence, of 0.1 to 0.2 to the others; 59 of 60 are nearest to their own.
    """
    near = (SHARPNESS * vectors @ known.T).softmax(-1)
    return torch.nn.functional.normalize(near @ known, dim=-1)


def _plain(sentence: str | None, at: int) -> str:
    """Return the sentence in normalised form. Raises ValueError, naming its position `at`, if nothing is left."""
    words = "" if sentence is None else " ".join(sentence.casefold().split()).rstrip(".! ")
    if not words:
        raise UserError(
            f"{LANGUAGE_KEY}: sentence {at} is {sentence!r}, without text; it says what to do, e.g. 'walk forward'"
        )
    return words
