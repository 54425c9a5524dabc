"""How each environment stands on the ladder (`policies.ladder`), and what it did."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.model import WorldModel

LOOKED = 20
"""Newest decisions that tell in which situation a tool is used."""


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
    clock: int = -1
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
