"""Conditioning of Gaussians on linear readings, and of a search's candidates, which are samples of one.

With w = mean + U e, e standard normal, a reading C w = value of noise with covariance N moves e by
V^T L^-1 (value - C mean), V = L^-1 C U, L L^T = C U U^T C^T + N. A sample of w and one of the noise, moved alike, are a
sample of the conditioned Gaussian (Matheron's rule: Wilson et al. 2021, arXiv 2011.04026).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PASSES = 4
"""What clipping takes from a reading is made up for, so many times, by the numbers that are not at a bound."""


class Pins(NamedTuple):
    """M readings of the plans of B searches: the sum of rows * plan is `value`, with a standard `deviation` above 0."""

    rows: Float[Tensor, "B M T P"]
    value: Float[Tensor, "B M"]
    deviation: Float[Tensor, "B M"]


def correction(
    root: Float[Tensor, "*B M M"], seen: Float[Tensor, "*B M R"], gap: Float[Tensor, "*B M 1"]
) -> tuple[Float[Tensor, "*B M R"], Float[Tensor, "*B R 1"]]:
    """Return V, and how far e is moved, given L, C U and value - C mean."""
    along = torch.linalg.solve_triangular(root, seen, upper=False)
    return along, along.mT @ torch.linalg.solve_triangular(root, gap, upper=False)


def condition(
    candidates: Float[Tensor, "T B N P"], std: Float[Tensor, "T B P"], pins: Pins, generator: torch.Generator
) -> Float[Tensor, "T B N P"]:
    """Condition candidates, drawn with deviations `std` and clipped to [-1, 1]; `generator`: of the readings' noise."""
    w = candidates.movedim(0, 2).flatten(2).double()
    rows, value, spread = (each.to(w).unsqueeze(1) for each in (pins.rows.flatten(2), *pins[1:]))
    off = torch.randn(*w.shape[:2], spread.shape[-1], generator=generator).to(w)
    unit, own = std.movedim(0, 1).flatten(1).to(w).unsqueeze(1).expand_as(w), torch.diag_embed(spread.expand_as(off))
    for _ in range(PASSES):
        seen = torch.cat([rows * unit.unsqueeze(2), own], -1)  # by w and by the noise
        gap = value - (rows * w.unsqueeze(2)).sum(-1) - spread * off
        move = correction(torch.linalg.cholesky(seen @ seen.mT), seen, gap.unsqueeze(-1))[1].squeeze(-1)
        w, off = (w + unit * move[..., : w.shape[-1]]).clamp(-1, 1), off + move[..., w.shape[-1] :]
        unit = torch.where(w.abs() < 1, unit, 0.0)
    return w.to(candidates.dtype).unflatten(2, (len(candidates), -1)).movedim(2, 0)
