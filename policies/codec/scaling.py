"""Scaling of channels from their own units so that most of the data lies in [-1, 1]."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

TAIL = 0.01
STILL = 1e-6  # a channel that spans less than this counts as constant


@dataclass(frozen=True)
class Scaling:
    """scaled = (value - middle) / half for each of D channels; `low` and `high` bound decoded values, when scaled."""

    middle: Float[np.ndarray, " D"]
    half: Float[np.ndarray, " D"]
    low: Float[np.ndarray, " D"]
    high: Float[np.ndarray, " D"]

    @classmethod
    def fit(cls, episodes: list[np.ndarray], margin: float, limits: tuple | None = None) -> "Scaling":
        """Map the 1 % and 99 % quantiles of the episodes' steps to -1 and 1; bounds are `limits`, or +-`margin`.

        `limits`: (low, high), each (D,), in the channels' own units. Raises ValueError for limits of another shape, or
        unless each low is below its high.
        """
        steps = np.concatenate(episodes)
        bottom, top = np.quantile(steps, [TAIL, 1 - TAIL], axis=0)
        # A channel that hardly ever leaves one value has equal quantiles: use its full range instead.
        flat = top - bottom < STILL
        bottom, top = np.where(flat, steps.min(0), bottom), np.where(flat, steps.max(0), top)
        half = np.where(top - bottom < STILL, 1.0, (top - bottom) / 2)
        middle = (top + bottom) / 2
        if limits is None:
            return cls(middle, half, np.full(len(half), -margin), np.full(len(half), margin))
        if np.shape(limits) != (2, len(half)):
            raise ValueError(f"limits: (low, high), each of {len(half)} channels")
        low, high = ((np.asarray(limit, dtype=float) - middle) / half for limit in limits)
        if not (low < high).all():
            raise ValueError("limits: each channel's low must be below its high")
        return cls(middle, half, low, high)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scale values (..., D)."""
        return (values - self.middle) / self.half

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """Convert scaled values (..., D) back to the channels' own units."""
        return scaled * self.half + self.middle
