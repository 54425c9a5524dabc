"""How well a guidance is fulfilled by the true quantities, rather than by what is read of them from a latent."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.settings import Wish
from worldmodel.errors import UserError
from worldmodel.probes import closeness

LAST = 10
"""A guidance counts as fulfilled as in the last of so many parts of an episode."""


class Judge:
    """Judges G wishes by quantities in the order of `names`, of E episodes. `own`: the share of another reward."""

    def __init__(self, wishes: Sequence[Wish], names: Sequence[str]):
        """Raise UserError for a wish about a quantity that is not among the names."""
        for term in [term for wish in wishes for term in wish.terms]:
            if term.quantity not in names:
                raise UserError(f"guidance: {term.quantity}: no quantity here; there are {', '.join(names) or 'none'}")
        self.wishes = wishes
        self._spread = [torch.tensor([term.spread for term in wish.terms]) for wish in wishes]
        self._at = [[[*names].index(term.quantity) for term in wish.terms] for wish in wishes]
        self._weights = torch.tensor([wish.weight for wish in wishes])
        self.own = max(0.0, 1 - sum(wish.weight for wish in wishes))

    def closeness(self, values: Float[Tensor, "*B Q"]) -> Float[Tensor, "*B G"]:
        """Return how close each wish is to being fulfilled, from 0 to 1; 0 where a quantity is unknown."""
        parts = zip(self.wishes, self._at, self._spread, strict=True)
        each = [closeness(wish.terms, values[..., at], spread) for wish, at, spread in parts]
        return torch.stack(each, -1).nan_to_num(0.0)

    def reward(self, values: Float[Tensor, "*B Q"]) -> Float[Tensor, "*B"]:
        """Return the weighted sum of the closeness of all wishes."""
        return self.closeness(values) @ self._weights

    def now(self, values: Float[np.ndarray, " Q"]) -> float:
        """Return the same of one moment."""
        return float(self.reward(torch.from_numpy(values)))

    def holds(self, values: Float[Tensor, "*B Q"]) -> Bool[Tensor, "*B G"]:
        """Return where every term of each wish holds."""
        each = [
            torch.stack([term.holds(values[..., i]) for term, i in zip(wish.terms, at, strict=True)], -1).all(-1)
            for wish, at in zip(self.wishes, self._at, strict=True)
        ]
        return torch.stack(each, -1)

    def satisfied(self, episodes: Sequence[Float[np.ndarray, "_ Q"]]) -> tuple[float, list[float]]:
        """Return the share of each episode's last tenth at which all wishes hold, in the mean, and that of each."""
        ends = [self.holds(torch.from_numpy(each[-math.ceil(len(each) / LAST) :])) for each in episodes]
        alone = torch.stack([end.float().mean(0) for end in ends]).mean(0).tolist()
        return float(np.mean([float(end.all(-1).float().mean()) for end in ends])), alone

    def returns(self, episodes: Sequence[Float[np.ndarray, "_ Q"]]) -> tuple[float, list[float]]:
        """Return the sum of closeness over steps, in the mean of E episodes: the wishes' weighted mean, and each's."""
        each = torch.stack([self.closeness(torch.from_numpy(values)).sum(0) for values in episodes]).mean(0)
        return float(each @ self._weights / self._weights.sum().clamp(min=1e-12)), each.tolist()
