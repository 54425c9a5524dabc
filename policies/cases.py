"""How each environment stands on the ladder (`policies.ladder`), what it did, and what the uses of tools brought."""

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from policies.guidance.storage import sum_of_model
from policies.storage.folders import FolderError, replace_file
from worldmodel.errors import in_one_line
from worldmodel.model import WorldModel

LOOKED = 20  # newest decisions that tell in which situation a tool is used
FILE = "tools.json"
MOST = 200
HOPED, PRIOR = 1.0, 0.1  # the gain hoped for of a tool where it was never used, and how many uses there that counts as
NEAR = 0.2
"""Distance of two situations, in shares of the sum of their norms, at which one counts exp(-1/2) for the other."""


@dataclass(frozen=True)
class Rung:
    """A step taken in an episode at a decision, and why, in one line."""

    episode: int
    decision: int
    rung: str
    why: str


class Use(NamedTuple):
    """A tool in use from decision `at` on, in a `situation`, and the schedule before."""

    name: str
    situation: Float[np.ndarray, " D"]
    before: float
    at: int


@dataclass
class Case:
    """How one environment stands.

    `rung`: where it is, "" for nowhere; `left`: decisions left there; `taken`: rungs before; `quiet`: decisions without
    an alarm. `clock`: at which decision of a good episode it should be by now; `mean`: its schedule of late.
    `patience`: decisions left to get where good ones are, after it was first `mended`. `seen`: its newest transitions
    (z, w, z'), `last` the first two of the next. `sent`: its newest actions; `back`: those that undo them. `used`: the
    tools that it has used, `use` the last as long as it is not known what that brought.
    """

    episode: int
    rung: str = ""
    left: int = 0
    taken: list[str] = field(default_factory=list)
    quiet: int = 0
    patience: int = 0
    mended: bool = False
    question: str = ""  # that it asks
    mean: float = 0.0
    clock: float = -1.0
    last: tuple[Tensor, Tensor] | None = None
    seen: deque[tuple[Tensor, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=40))
    sent: deque[Tensor] = field(default_factory=lambda: deque(maxlen=60))
    back: list[Tensor] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    use: Use | None = None

    def situation(self, model: WorldModel) -> Float[np.ndarray, " D"]:
        """Return how much the latent changed, and differed from what `model` imagines, in the mean of late."""
        seen = list(self.seen)[-LOOKED:]
        if not seen:
            return np.zeros(2 * model.config.latent)
        z, w, following = [torch.stack(each) for each in zip(*seen, strict=True)]
        imagined = model.step(z, w)[0]
        return torch.cat([(following - each).abs().mean(0) for each in (z, imagined)]).cpu().numpy()


class Uses:
    """What tools brought: of each use, by the tool's name, [the situation (D,) that it was used in, the gain].

    A gain is the share of a good episode's missing reward that came then. What is added counts for the next to read it.
    """

    def __init__(self, known: Mapping[str, Sequence[Sequence[Any]]] | None = None, place: Path | None = None):
        """Know these uses. `place`: the checkpoint with which each that is added is kept at once."""
        self._known = {
            name: (np.array([each for each, _ in uses]), np.array([gain for _, gain in uses]))
            for name, uses in (known or {}).items()
            if uses
        }
        self.all = {name: [*uses] for name, uses in (known or {}).items()}
        self.tried = Counter[str]()  # how often each was used since, whether what it brought is known yet or not
        self._place = place

    def gain(self, name: str, situation: Float[np.ndarray, " D"]) -> float:
        """Return the gain to be expected of a tool: as in like situations, and as hoped where there were none."""
        if name not in self._known:
            return HOPED
        before, gains = self._known[name]
        most = np.linalg.norm(before, axis=1) + np.linalg.norm(situation)
        apart = np.linalg.norm(before - situation, axis=1) / np.where(most, most, 1.0)
        weights = np.exp(-np.square(apart / NEAR) / 2)
        return float((weights @ gains + PRIOR * HOPED) / (weights.sum() + PRIOR))

    def trials(self, name: str) -> tuple[int, int]:
        """Return how often it is known what a tool brought, and how often it was used since."""
        return len(self.all.get(name, ())), self.tried[name]

    def add(self, name: str, situation: Float[np.ndarray, " D"], gain: float) -> None:
        """Note a use; of each tool the newest MOST are remembered."""
        noted = [[round(float(x), 4) for x in situation], round(gain, 4)]
        self.all[name] = [*self.all.get(name, ()), noted][-MOST:]
        if self._place is not None:
            self.keep(self._place)

    def keep(self, checkpoint: Path) -> None:
        """Keep them in a checkpoint's folder, in a file that appears at once."""
        replace_file(checkpoint / FILE, json.dumps({"checkpoint": sum_of_model(checkpoint), "uses": self.all}).encode())

    @classmethod
    def kept(cls, checkpoint: Path, live: bool = False) -> "Uses":
        """Return a checkpoint's, or none. `live`: keep what is added. Raises FolderError if they are not of it."""
        path, place = checkpoint / FILE, checkpoint if live else None
        if not path.exists():
            return cls({}, place)
        try:
            found = json.loads(path.read_bytes())
            uses = cls(found["uses"], place)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(f"{path}: not uses: {in_one_line(error)}; without it tools are tried anew") from error
        if found["checkpoint"] != sum_of_model(checkpoint):
            raise FolderError(f"{path}: of another checkpoint; without it tools are tried anew")
        return uses
