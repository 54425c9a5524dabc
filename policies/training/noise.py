"""The noise that an agent explores with: white, or such that lasts, or each in turn.

White noise undoes itself from one decision to the next; a body with inertia hardly moves by it. Pink noise, whose power
falls with frequency as 1/f, has swings of every duration, and is the best choice where nothing is known of the task
(Eberhard et al. 2023, "Pink noise is all you need", ICLR). A body that must keep its balance falls by it. So one
episode is explored by the one, the next by the other, unless that is known.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

COLOURS = {"white": (1,), "pink": (1, 4, 16, 64), "mixed": (1, 4, 16, 64)}
"""How many draws the parts of a noise last."""


class Noise:
    """Standard normal at each draw; from draw to draw independent (white), or correlated about as 1/f noise is (pink).

    Pink is a sum of equally strong first-order autoregressions whose time constants lie a factor of 4 apart: their
    spectra add up to nearly 1/f between the shortest and the longest (Keshner 1982, Proc. IEEE 70(3)). Mixed: the first
    dimension of a draw is of environments, and each episode of one is pink or white, the next is the other.
    """

    def __init__(self, colour: str, generator: torch.Generator):
        self.generator = generator
        lasting = torch.tensor(COLOURS[colour], dtype=torch.float32)
        self.keep = torch.where(lasting > 1, torch.exp(-1 / lasting), 0.0)
        self.parts = torch.zeros(len(lasting), 0)  # where each part stands
        self.mixed, self.pink = colour == "mixed", torch.zeros(0, dtype=torch.bool)  # (B,), of this episode

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Episodes begin in the environments (B,) whose last one ended."""
        if len(self.pink) == len(ended):
            self.pink = self.pink ^ ended

    def draw(self, *shape: int, due: Bool[Tensor, " B"] | None = None) -> Float[Tensor, "..."]:
        """The next numbers, of this shape; where it is not that of the last draw, the noise begins anew.

        `due` (B,): the rows that are asked for, all unless given; the others are any, and stay where they were.
        """
        fresh = torch.randn(len(self.keep), *shape, generator=self.generator)
        white = fresh.sum(0) / len(fresh) ** 0.5 if self.mixed else None
        if self.parts.shape == fresh.shape:
            keep = self.keep.view(-1, *[1] * len(shape))
            fresh = keep * self.parts + (1 - keep.square()).sqrt() * fresh
            if due is not None:
                fresh = torch.where(due.view(-1, *[1] * (len(shape) - 1)), fresh, self.parts)
        self.parts = fresh
        drawn = fresh.sum(0) / len(fresh) ** 0.5
        if not self.mixed:
            return drawn
        if len(self.pink) != shape[0]:
            self.pink = torch.arange(shape[0]) % 2 == 0
        return torch.where(self.pink.view(-1, *[1] * (len(shape) - 1)), drawn, white)
