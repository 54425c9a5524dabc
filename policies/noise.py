"""Exploration noise: white, pink, or the two in alternate episodes.

White noise cancels out from one decision to the next, and hardly moves a body with inertia. Pink noise (power 1/f) has
excursions of every duration, and is the best default for an unknown task (Eberhard et al. 2023, "Pink noise is all you
need", ICLR), but topples a body that has to keep its balance. So "mixed" alternates from episode to episode.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel import registry

COLOURS = {"white": (1,), "pink": (1, 4, 16, 64), "mixed": (1, 4, 16, 64)}
"""For each colour, the time constants of its components, in draws."""


def make(name: str, generator: torch.Generator) -> "Noise":
    """Return noise by its name: a colour, or one registered as `f(generator)` with the methods of `Noise`."""
    own = registry.find("noise", name)
    return Noise(name, generator) if own is None else own(generator)


class Noise:
    """Noise that is standard normal at each draw, and across draws independent (white) or approximately 1/f (pink).

    Pink noise is a sum of first-order autoregressive processes of equal variance whose time constants are a factor of 4
    apart: their spectra add up to nearly 1/f between the shortest and the longest (Keshner 1982, Proc. IEEE 70(3)).
    Mixed: the rows of a draw are environments, each of which alternates between pink and white episodes.
    """

    def __init__(self, colour: str, generator: torch.Generator):
        self.generator = generator
        lasting = torch.tensor(COLOURS[colour], dtype=torch.float32)
        self.keep = torch.where(lasting > 1, torch.exp(-1 / lasting), 0.0)
        self.parts = torch.zeros(len(lasting), 0)  # (components, B, P): the state of each component
        self.mixed, self.pink = colour == "mixed", torch.zeros(0, dtype=torch.bool)  # (B,): is this episode pink?

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Switch colour in the environments (B,) whose episode ended, if the noise is mixed."""
        if len(self.pink) == len(ended):
            self.pink = self.pink ^ ended

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the components, and which episodes are pink."""
        return {"parts": self.parts, "pink": self.pink}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.parts, self.pink = saved["parts"], saved["pink"]

    def draw(self, count: int, size: int, due: Bool[Tensor, " B"] | None = None) -> Float[Tensor, "B P"]:
        """Draw the next noise (count, size) for the rows that are `due` (all by default); the others do not advance."""
        fresh = white = torch.randn(len(self.keep), count, size, generator=self.generator)
        if self.parts.shape == fresh.shape:
            keep = self.keep.view(-1, 1, 1)
            fresh = keep * self.parts + (1 - keep.square()).sqrt() * fresh
            if due is not None:
                fresh = torch.where(due.unsqueeze(1), fresh, self.parts)
        self.parts = fresh
        drawn = fresh.sum(0) / len(fresh) ** 0.5
        if not self.mixed:
            return drawn
        if len(self.pink) != count:
            self.pink = torch.arange(count) % 2 == 0
        return torch.where(self.pink.unsqueeze(1), drawn, white.sum(0) / len(white) ** 0.5)
