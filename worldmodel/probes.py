"""Probes: ridge regressions that read named quantities from the latent, and how near quantities are to what is wanted.

Letters in shapes: Q quantities, T terms, D numbers in a latent, P in a token.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.settings import Term

RIDGE = 1e-3
"""Weight of the penalty of a probe's squared weights, per moment."""
HELD_OUT = 5
"""One episode in so many measures how well the probes read; the others fit them."""
LINEAR = 0.995
"""The r2 below which a probe reads features of the latent, too."""
WIDE, RIDGE_WIDE, MOST = 1024, 1e-4, 20_000
"""How many features, the penalty of their probes, and the most moments that fit them."""
ANYWHERE, RIDGE_NEAR = 0.05, 1e-5
"""Of probes that read a guidance's quantities best where it is fulfilled: the weight of moments where it is not, beside
1 where it is, and the penalty."""
SHARP = 0.05
"""Share of a quantity's range within which a one-sided term rises to its full reward."""

DOUBTED = 2.0
"""How many standard deviations of a token's doubt count as distance (`closeness`)."""


@dataclass(frozen=True)
class Probes:
    """Readings q = W f(z) + b of Q named quantities from a latent, and how far each can be trusted.

    weight (Q, F): F = D if all read the latent itself, else D + WIDE (`lifted`). r2 (Q,): coefficient of determination
    on held-out episodes. low, high (Q,): the range seen (1 and 99 %). doubt (Q,): how much more a reading errs after an
    imagined token w, as a standard deviation for each unit of its root mean square; None: not known.
    """

    names: tuple[str, ...]
    weight: Float[Tensor, "Q F"]
    bias: Float[Tensor, " Q"]
    r2: Float[Tensor, " Q"]
    low: Float[Tensor, " Q"]
    high: Float[Tensor, " Q"]
    doubt: Float[Tensor, " Q"] | None = None

    def __call__(self, z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B Q"]:
        """Read the quantities from latents."""
        return (z if self.weight.shape[1] == z.shape[-1] else lifted(z)) @ self.weight.T + self.bias

    def chosen(self, names: Sequence[str]) -> "Probes":
        """Return the probes of these quantities, in this order; linear ones if none of them needs more."""
        at = [self.names.index(name) for name in names]
        weight, bias, r2 = self.weight[at], self.bias[at], self.r2[at]
        size = weight.shape[1] - WIDE
        if size > 0 and not bool(weight[:, size:].any()):
            weight = weight[:, :size].contiguous()
        doubt = None if self.doubt is None else self.doubt[at]
        return Probes(tuple(names), weight, bias, r2, self.low[at], self.high[at], doubt)

    def doubted(self, z: Float[Tensor, "N D"], token: Float[Tensor, "N P"], values: Float[Tensor, "N Q"]) -> "Probes":
        """Return them with the doubt that N latents imagined after a token teach, by the true `values`."""
        size, error = token.square().mean(-1, keepdim=True), (self(z) - values).square()
        known = error.isfinite()
        count = known.sum(0).clamp(min=1)
        size, error = (torch.where(known, each, 0.0) for each in (size.expand_as(error), error))
        size = torch.where(known, size - size.sum(0) / count, 0.0)
        slope = (size * error).sum(0) / size.square().sum(0).clamp(min=1e-12)
        return replace(self, doubt=slope.clamp(min=0).sqrt())

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        latents: Float[Tensor, "N D"],
        values: Float[Tensor, "N Q"],
        episode: Int[Tensor, " N"],
        linear: bool = False,
    ) -> "Probes":
        """Fit probes by ridge regression to `values` at N moments; NaN where unknown. `episode` (N,): each one's.

        Where the latent alone gives an r2 below LINEAR, features of it are added (`lifted`), unless `linear`. A
        quantity that never changes, or is known at no held-out moment, has an r2 of 0.
        """
        test, known = episode % HELD_OUT == 0, values.isfinite()
        count, size = values.shape[1], latents.shape[1]
        low, high = (
            torch.tensor([_quantile(values[known[:, i], i], share) for i in range(count)]) for share in (0.01, 0.99)
        )
        fits = [
            high[i] > low[i] and min(int((known[:, i] & part).sum()) for part in (test, ~test)) > 1
            for i in range(count)
        ]
        able = [i for i in range(count) if fits[i]]
        found = torch.zeros(count, size + 2)
        found[able] = _ridge(latents, values[:, able], test, RIDGE)
        poor = [i for i in able if found[i, -1] < LINEAR]
        if poor and not linear:
            kept = torch.arange(len(latents))[:: -(-len(latents) // MOST)]
            more = _ridge(lifted(latents[kept]), values[kept][:, poor], test[kept], RIDGE_WIDE)
            wide = torch.zeros(count, size + WIDE + 2)
            wide[:, :size], wide[:, -2:] = found[:, :size], found[:, -2:]
            wide[poor] = torch.where(more[:, -1:] > found[poor, -1:], more, wide[poor])
            found = wide
        return cls(tuple(names), found[:, :-2].contiguous(), found[:, -2], found[:, -1], low, high)


def nearby(
    terms: Sequence[Term],
    probes: Probes,
    latents: Float[Tensor, "N D"],
    values: Float[Tensor, "N T"],
    episode: Int[Tensor, " N"],
    generator: torch.Generator,
) -> Probes:
    """Return probes of the terms' quantities fitted to moments drawn by how well the guidance is fulfilled there.

    A search stays there, so errors elsewhere count less. `values`: the true ones. A probe that reads the held-out among
    the drawn moments no better than before stays as it was.
    """
    weight = ANYWHERE + closeness(terms, values, probes.high - probes.low).nan_to_num(0.0)
    rows = torch.multinomial(weight, min(len(weight), MOST), True, generator=generator)
    z, y, test = latents[rows], values[rows], episode[rows] % HELD_OUT == 0
    found = _ridge(lifted(z), y, test, RIDGE_NEAR)
    before = torch.zeros(len(terms), latents.shape[1] + WIDE)
    before[:, : probes.weight.shape[1]] = probes.weight
    known = test[:, None] & y.isfinite()
    error = torch.where(known, probes(z) - y, 0.0).square().sum(0)
    spread = torch.where(known, y - y.nanmean(0), 0.0).square().sum(0).clamp(min=1e-12)
    better = found[:, -1] > 1 - error / spread
    weight = torch.where(better[:, None], found[:, :-2], before)
    return replace(probes, weight=weight, bias=torch.where(better, found[:, -2], probes.bias))


def lifted(z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
    """Append WIDE fixed random features to latents, from which a linear map reads curved quantities, too.

    Source: random features, Rahimi & Recht 2007 (NeurIPS), here SiLU units. A latent's entries have mean 1/8 or so.
    """
    directions, offsets = _directions(z.shape[-1], z.device)
    return torch.cat([z, F.silu((8 * z - 1) @ directions + offsets)], -1)


@functools.cache
def _directions(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(size, WIDE, generator=generator) / size**0.5, torch.randn(WIDE, generator=generator)
    return drawn[0].to(device), drawn[1].to(device)


def _ridge(x: Float[Tensor, "N F"], y: Float[Tensor, "N Q"], test: Tensor, penalty: float) -> Float[Tensor, "Q G"]:
    """Return weights, bias, r2 (F + 2) of each ridge of y on x, held out where `test`; columns known alike together."""
    known, result = y.isfinite(), torch.zeros(y.shape[1], x.shape[1] + 2)
    together: dict[bytes, list[int]] = {}
    for i in range(y.shape[1]):
        together.setdefault(known[:, i].numpy().tobytes(), []).append(i)
    for columns in together.values():
        train, held = known[:, columns[0]] & ~test, known[:, columns[0]] & test
        inputs, outputs = x[train].double(), y[train][:, columns].double()
        middle, mean = inputs.mean(0), outputs.mean(0)
        centred = inputs - middle
        gram = centred.T @ centred / len(inputs)
        gram += penalty * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
        weight = torch.linalg.solve(gram, centred.T @ (outputs - mean) / len(inputs))
        bias, true = mean - middle @ weight, y[held][:, columns].double()
        left = (x[held].double() @ weight + bias - true).square().sum(0)
        r2 = 1 - left / (true - true.mean(0)).square().sum(0).clamp(min=1e-12)
        result[columns] = torch.cat([weight.T, bias[:, None], r2[:, None]], 1).float()
    return result


def _quantile(values: Tensor, share: float) -> float:
    if not len(values):
        return math.nan
    ordered = values.sort().values
    return float(ordered[round(share * (len(ordered) - 1))])


def closeness(
    terms: Sequence[Term],
    values: Float[Tensor, "*B T"],
    spread: Float[Tensor, " T"],
    doubt: Float[Tensor, "*B T"] | None = None,
) -> Float[Tensor, "*B"]:
    """Return 1 - log(1 + |d/s|) / log(1 + |R/s|), at least 0; d, s and R are vectors over the terms; `spread` is R.

    Each halving of a large distance counts the same, so that it leads from afar as well as it holds nearby; distances
    of all terms as one, so that none is left far off for the others. A term with two ends has its distance d from
    their middle, and s half its width; with one end, from a point beyond the end by s = SHARP R. With `doubt`, the
    standard deviation of the values' errors, d is the root of d^2 + (DOUBTED doubt)^2: nothing from afar, much nearby.
    """
    ends = [[float(getattr(term, end)) for term in terms] for end in ("low", "high")]
    low, high = torch.tensor(ends, dtype=values.dtype, device=values.device)
    spread = spread.to(values.device).clamp(min=1e-6)
    both = low.isfinite() & high.isfinite()
    sharp = torch.where(both, (high - low) / 2, SHARP * spread).clamp(min=1e-6)
    below = torch.where(both, (low + high) / 2, low + sharp) - values
    above = values - torch.where(both, (low + high) / 2, high - sharp)
    away = torch.maximum(below, above).clamp(min=0)
    if doubt is not None:
        away = torch.hypot(away, DOUBTED * doubt)
    farthest = torch.log1p((spread / sharp).norm()).clamp(min=1e-6)
    return (1 - torch.log1p((away / sharp).norm(dim=-1)) / farthest).clamp(min=0)
