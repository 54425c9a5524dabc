"""A codebook of `Manifold` tokens: a mixture of Gaussians over control points, fitted to demonstrations."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policies.distributions.manifold import Manifold

ITERATIONS = 30  # of k-means


@dataclass(frozen=True)
class Mixture:
    """A mixture of C tokens (C, P) with log-weights (C,).

    After conditioning on values (..., M), tokens are (..., C, P) and log-weights (..., C).
    """

    log_weights: Float[Tensor, "*B C"]
    tokens: Manifold

    def evidence(
        self, rows: Float[Tensor, "M P"], value: Float[Tensor, "*B M"], deviation: float | Float[Tensor, " M"]
    ) -> Float[Tensor, "*B C"]:
        """Return each token's log-probability (..., C) given rows @ w = `value`, measured with `deviation`."""
        joint = self.log_weights + self.tokens.evidence(rows, value[..., None, :], deviation)
        return joint.log_softmax(-1)

    def condition(
        self, rows: Float[Tensor, "M P"], value: Float[Tensor, "*B M"], deviation: float | Float[Tensor, " M"]
    ) -> "Mixture":
        """Condition every token on that measurement, and reweight the tokens by their evidence."""
        weights = self.evidence(rows, value, deviation)
        return Mixture(weights, self.tokens.condition(rows, value[..., None, :], deviation))

    def log_density(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        """Return the log-density (...,) of w (..., P)."""
        return (self.log_weights + self.tokens.log_density(w[..., None, :])).logsumexp(-1)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "*B N P"]:
        """Draw N = `count` points (..., N, P).

        Mixture components are drawn by systematic sampling, so that their shares match the weights to within 1 / N.
        """
        shares = self.log_weights.exp().cumsum(-1)
        batch, size = shares.shape[:-1], self.tokens.mean.shape[-1]
        start = torch.rand(*batch, 1, generator=generator, dtype=shares.dtype)
        places = (torch.arange(count) + start) / count * shares[..., -1:]
        chosen = torch.searchsorted(shares, places).clamp(max=shares.shape[-1] - 1)
        noise = torch.randn(*batch, count, size, generator=generator, dtype=shares.dtype)
        away = torch.empty_like(noise)
        for k in chosen.unique():  # means depend on the values conditioned on, a token's covariance does not
            own, t = chosen == k, self.tokens
            still = Manifold(torch.zeros_like(t.scale[k]), t.scale[k], t.axes[k], t.gain[k], t.known[k])
            away[own] = still.sample(noise[own])
        means = self.tokens.mean.expand(*batch, *self.tokens.mean.shape[-2:])
        return away + means.gather(-2, chosen[..., None].expand(*chosen.shape, size))

    def read(self, rows: Float[Tensor, "M P"]) -> tuple[Float[Tensor, "*B M"], Float[Tensor, "*B M"]]:
        """Return mean and standard deviation, each (..., M), of the linear readings rows @ w over the whole mixture."""
        mean, deviation = self.tokens.read(rows)
        weights = self.log_weights.exp()[..., None]
        middle = (weights * mean).sum(-2)
        variance = (weights * (deviation.square() + (mean - middle[..., None, :]).square())).sum(-2)
        return middle, variance.sqrt()


def fit(
    data: Float[Tensor, "N P"],
    count: int,
    rank: int,
    prior: float,
    generator: torch.Generator,
    groups: Int[Tensor, " N"] | None = None,
    floor: float = 1e-3,
) -> Mixture:
    """Fit a mixture of `count` tokens around the k-means centres of control points (N, P).

    A cluster's scatter is taken around the mean of its points from *other* `groups` (N,), the episodes they were cut
    from (by default each point is its own group): an episode's chunks lie close together, and closer to their own mean
    than a new episode's will. The scatter is shrunk towards the pooled scatter of all clusters, as if `prior` more
    points of that had been seen, and reduced to its `rank` strongest directions plus an isotropic rest with a standard
    deviation of at least `floor`.

    Raises ValueError for more tokens than points, a rank above P, a prior that is not positive (a cluster of one group
    has no scatter of its own), or so many tokens that no cluster has points of two groups.
    """
    if not prior > 0:
        raise ValueError(f"prior={prior}: above 0")
    chosen, centres = k_means(data, count, generator)
    away, counted = _away_from_others(data, chosen, torch.arange(len(data)) if groups is None else groups)
    if not bool(counted.any()):
        raise ValueError(f"count={count}: so many tokens that none has points of two groups; take fewer")
    pooled = away[counted].mT @ away[counted] / counted.sum()
    scatters = []
    for k in range(count):
        own = away[counted & (chosen == k)]
        scatters.append((own.mT @ own + prior * pooled) / (len(own) + prior))
    weights = (torch.bincount(chosen, minlength=count) + 1.0).to(data.dtype) / (len(data) + count)
    return Mixture(weights.log(), Manifold.nearest(centres, torch.stack(scatters), rank, floor))


def _away_from_others(data: Tensor, chosen: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (N, P) minus the mean of their cluster's points from other groups, and whether any exist (N,)."""
    _, part = torch.unique(torch.stack([chosen, groups]), dim=1, return_inverse=True)

    def total(label: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(int(label.max()) + 1, *values.shape[1:]).index_add_(0, label, values)[label]

    ones = torch.ones_like(data[:, :1])
    others = total(chosen, ones) - total(part, ones)
    mean = (total(chosen, data) - total(part, data)) / others.clamp(min=1)
    return data - mean, others[:, 0] > 0


def k_means(
    data: Float[Tensor, "N P"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " N"], Float[Tensor, "C P"]]:
    """Return each point's cluster (N,) and the cluster centres (C, P), with k-means++ initialization.

    A cluster that loses its last point keeps its centre. Raises ValueError unless 1 <= count <= N.
    """
    if not 1 <= count <= len(data):
        raise ValueError(f"count={count}: from 1 to {len(data)}, the number of points")
    first = torch.randint(len(data), (1,), generator=generator)
    centres = data[first]
    for _ in range(count - 1):
        near = _distances(data, centres).amin(1) + 1e-12
        centres = torch.cat([centres, data[torch.multinomial(near, 1, generator=generator)]])
    for _ in range(ITERATIONS):
        chosen = _distances(data, centres).argmin(1)
        totals = torch.zeros_like(centres).index_add_(0, chosen, data)
        sizes = torch.bincount(chosen, minlength=count)[:, None]
        centres = torch.where(sizes > 0, totals / sizes.clamp(min=1), centres)
    return _distances(data, centres).argmin(1), centres


def _distances(data: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distances (N, C) of points from centres."""
    return torch.cdist(data, centres).square()
