"""A library of guidances in words, and which of them a sentence means, as a set with the right one 9 times in 10.

A ridge map from sentence vectors (`policies.text_encoder`) to the library's entries is fitted to all their texts. How
much lower than the best the right entry may score is learned from these texts, each scored by a map fitted without it
(conformal prediction, cross-validated by leaving one out: Barber et al. 2021, arXiv 1905.02928).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from policies.guidance.wishes import read_yaml
from policies.text_encoder import WORDS
from worldmodel.errors import UserError
from worldmodel.strict import build

RIDGE = 0.3
COVERED = 0.93
"""How often the set holds the right entry, for texts such as the library's; for other people's a little less often."""
ALIKE = 0.2
"""The least similarity (cosine) of a sentence to one of the library's for it to mean anything there."""


@dataclass(frozen=True)
class Entry:
    """A guidance of a library: its sentence, the wish that it stands for, other ways to say it."""

    sentence: str
    want: tuple[str, ...]
    paraphrases: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All the ways to say it."""
        return (self.sentence, *self.paraphrases)


def read_library(path: Path) -> tuple[Entry, ...]:
    """Read a YAML file, a list of entries. Raises UserError."""
    listed = read_yaml(path, "library")
    if not isinstance(listed, list) or len(listed) < 2 or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"library={path}: a list of at least two entries of sentence, want and paraphrases")
    try:
        return tuple(build(Entry, each, f"entry {at + 1}: ") for at, each in enumerate(listed))
    except UserError as error:
        raise UserError(f"library={path}: {error}") from error


def meant(words: str, library: Sequence[Entry]) -> list[Entry]:
    """Return the entries that `words` may mean, the most likely first. Raises UserError for words unlike all of them.

    A text that the library has itself means its entry alone.
    """
    plain = " ".join(words.casefold().split()).rstrip(".! ")
    if same := [entry for entry in library if plain in [text.casefold() for text in entry.texts]]:
        return same
    owner = torch.tensor([at for at, entry in enumerate(library) for _ in entry.texts])
    known, new = WORDS.encode([text for entry in library for text in entry.texts]), WORDS.encode([words])
    label = torch.nn.functional.one_hot(owner, len(library)).float() - 1 / len(library)
    gram = known @ known.T
    inverse = torch.linalg.inv(gram + RIDGE * torch.eye(len(known)))
    hat = gram @ inverse
    held = (hat @ label - hat.diagonal()[:, None] * label) / (1 - hat.diagonal()[:, None])  # each without itself
    lower = (held.amax(1) - held[torch.arange(len(known)), owner]).sort().values
    allowed = lower[min(len(known), math.ceil((len(known) + 1) * COVERED)) - 1]
    if float((new @ known.T).max()) < ALIKE:
        raise UserError(f"words='{words}': like nothing in the library: {'; '.join(e.sentence for e in library)}")
    score = (new @ known.T @ inverse @ label)[0]
    return [library[i] for i in score.argsort(descending=True).tolist() if score.max() - score[i] <= allowed]
