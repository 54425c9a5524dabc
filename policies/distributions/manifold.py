"""A token as a manifold of points instead of a single one: a Gaussian with low-rank structure, in closed form.

Sigma = S (I - N N^T + V diag(g) V^T) S, with S diagonal (`scale`), V (`axes`, P x R) and N (`known`) orthonormal, and
g > -1 (`gain`). Any covariance U U^T + D has this form, and the form is closed under every operation here: conditioning
makes g negative along what was learned, and adds to N what became known exactly; a product adds precisions, each
S^-1 (I - V diag(g / (1 + g)) V^T) S^-1. No operation costs more than a QR decomposition of a P x (R + M) matrix and an
eigendecomposition of size R + M, for M measured values. Source: Paraschos et al. 2013 (ProMPs); Woodbury's identity.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Manifold:
    """N(mean, Sigma) over the P entries of a token, with any leading dimensions; the fields may broadcast over them."""

    mean: Float[Tensor, "*#B P"]
    scale: Float[Tensor, "*#B P"]
    axes: Float[Tensor, "*#B P R"]
    gain: Float[Tensor, "*#B R"]
    known: Float[Tensor, "*#B P N"]

    @classmethod
    def of(
        cls, mean: Float[Tensor, "*B P"], factor: Float[Tensor, "*B P R"], rest: Float[Tensor, "*B P"]
    ) -> "Manifold":
        """Build N(mean, factor factor^T + diag(rest)).

        Raises ValueError unless the variances `rest` are all positive.
        """
        if not bool((rest > 0).all()):
            raise ValueError(f"rest: variances above 0; the smallest is {float(rest.min()):g}")
        scale = rest.sqrt()
        axes, gain = _orthonormal(factor / scale[..., None], torch.ones_like(factor[..., 0, :]))
        return cls(mean, scale, axes, gain, factor[..., :0])

    @classmethod
    def nearest(
        cls, mean: Float[Tensor, "*B P"], scatter: Float[Tensor, "*B P P"], rank: int, floor: float = 1e-3
    ) -> "Manifold":
        """Fit N(mean, U U^T + c I), U of `rank` columns, to data with covariance `scatter` by maximum likelihood.

        c is at least `floor`^2. For example, this turns a planner's elites back into a token. Source: Tipping and
        Bishop 1999, eq. 7 and 8. Raises ValueError unless 0 <= rank <= P.
        """
        values, vectors = torch.linalg.eigh(scatter)
        size = values.shape[-1]
        if not 0 <= rank <= size:
            raise ValueError(f"rank={rank}: from 0 to {size}, the numbers in a token")
        kept = slice(size - rank, size)
        rest = values[..., : size - rank].sum(-1, keepdim=True) / max(1, size - rank)
        rest = rest.clamp(min=floor**2)
        factor = vectors[..., kept] * (values[..., kept] - rest).clamp(min=0).sqrt()[..., None, :]
        return cls.of(mean, factor, rest.expand(*rest.shape[:-1], size))

    @property
    def covariance(self) -> Float[Tensor, "*B P P"]:
        """Sigma as a dense matrix; no other method needs it."""
        size = self.scale.shape[-1]
        core = torch.eye(size, dtype=self.scale.dtype) + (self.axes * self.gain[..., None, :]) @ self.axes.mT
        core = core - self.known @ self.known.mT
        return self.scale[..., :, None] * core * self.scale[..., None, :]

    @property
    def entropy(self) -> Float[Tensor, "*B"]:
        """Differential entropy in nats: the freedom the token leaves; -inf if a direction is known exactly."""
        if self.known.shape[-1]:
            return torch.full_like(self.mean[..., 0], -torch.inf)
        log_det = 2 * self.scale.log().sum(-1) + torch.log1p(self.gain).sum(-1)
        return 0.5 * (self.scale.shape[-1] * (1 + math.log(2 * math.pi)) + log_det)

    def sample(self, noise: Float[Tensor, "*N P"]) -> Float[Tensor, "*N P"]:
        """Map standard normal `noise` (..., P) to tokens (..., P); the noise's shape must end in the manifold's own.

        mean + S (I - N N^T + V diag(sqrt(1 + g) - 1) V^T) noise, which uses the symmetric root of the core of Sigma.
        """
        along = _into(self.axes, noise) * ((1 + self.gain).sqrt() - 1)
        free = noise - _out_of(self.known, _into(self.known, noise)) + _out_of(self.axes, along)
        return self.mean + self.scale * free

    def log_density(self, w: Float[Tensor, "*N P"]) -> Float[Tensor, "*D"]:
        """Return the log-density (...,) of tokens w (..., P); leading dimensions broadcast.

        Raises ValueError if a direction is known exactly, since there is no density then.
        """
        if self.known.shape[-1]:
            raise ValueError("a token that was conditioned without noise has no density; condition it with a deviation")
        away = (w - self.mean) / self.scale
        along = _into(self.axes, away)
        distance = away.square().sum(-1) - (along.square() * self.gain / (1 + self.gain)).sum(-1)
        size = self.scale.shape[-1]
        return 0.5 * (size - distance) - self.entropy

    def read(self, rows: Float[Tensor, "M P"]) -> tuple[Float[Tensor, "*B M"], Float[Tensor, "*B M"]]:
        """Return mean and standard deviation, each (..., M), of the linear readings rows @ w.

        With rows that read values of a curve (`Strand.rows`) they describe a tube around it.
        """
        left = rows * self.scale[..., None, :]
        along = (left @ self.axes).square() * self.gain[..., None, :]
        variance = left.square().sum(-1) + along.sum(-1) - (left @ self.known).square().sum(-1)
        mean, deviation = torch.broadcast_tensors(self.mean @ rows.mT, variance.clamp(min=0).sqrt())
        return mean, deviation

    def condition(
        self,
        rows: Float[Tensor, "M P"],
        value: Float[Tensor, "*C M"],
        deviation: float | Float[Tensor, " M"] = 0.0,
    ) -> "Manifold":
        """Condition on rows @ w = `value` (..., M), measured with standard deviation `deviation` (0: exactly).

        mean + K (value - rows mean), Sigma - K rows Sigma, with K = Sigma rows^T (rows Sigma rows^T + deviation^2)^-1.
        Raises ValueError if exact measurements are linearly dependent, or fix what is already known exactly.
        """
        root, gap = self._innovation(rows, value, deviation)
        gain = torch.linalg.solve_triangular(root, self._seen(rows).mT, upper=False).mT  # S^-1 Sigma rows^T root^-T
        step = torch.linalg.solve_triangular(root, gap[..., None], upper=False)
        mean = self.mean + self.scale * (gain @ step)[..., 0]
        known = self._known_with(rows[torch.as_tensor(deviation).expand(len(rows)) == 0])
        columns = torch.cat([self.axes.expand(*gain.shape[:-1], -1), gain], -1)
        signs = torch.cat([self.gain.expand(*gain.shape[:-2], -1), -torch.ones_like(gain[..., 0, :])], -1)
        axes, gain = _orthonormal(_without(known, columns), signs)
        return Manifold(mean, self.scale, axes, gain, known)

    def evidence(
        self,
        rows: Float[Tensor, "M P"],
        value: Float[Tensor, "*C M"],
        deviation: float | Float[Tensor, " M"] = 0.0,
    ) -> Float[Tensor, "*D"]:
        """Return the log-density (...,) of measuring rows @ w + deviation * noise = `value` (..., M).

        Raises ValueError as `condition` does.
        """
        root, gap = self._innovation(rows, value, deviation)
        white = torch.linalg.solve_triangular(root, gap[..., None], upper=False)[..., 0]
        log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (white.square().sum(-1) + len(rows) * math.log(2 * math.pi)) - log_root

    def times(self, other: "Manifold", base: "Manifold | None" = None) -> "Manifold":
        """Combine two intentions: the normalized product of their densities, divided by that of their prior (`base`).

        With a base this is exactly p(w | a, b) from p(w | a) and p(w | b), if a and b are independent given w. Raises
        ValueError if one has an exactly known direction, or if the base is narrower than the product.
        """
        parts = [(self, 1.0), (other, 1.0), *([(base, -1.0)] if base is not None else [])]
        if any(m.known.shape[-1] for m, _ in parts):
            raise ValueError(
                "a token that was conditioned without noise has no precision; condition it with a deviation"
            )
        zero = self.scale.new_zeros(())
        diagonal = sum((sign * m.scale.square().reciprocal() for m, sign in parts), zero)
        if not bool((diagonal > 0).all()):
            raise ValueError("base: it is narrower than the product; divide by what both tokens came from")
        scale = diagonal.rsqrt()
        columns = [m.axes * (scale / m.scale)[..., None] for m, _ in parts]
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in columns))
        signs = [(-sign * m.gain / (1 + m.gain)).expand(*batch[:-1], -1) for m, sign in parts]
        axes, fall = _orthonormal(torch.cat([c.expand(*batch, -1) for c in columns], -1), torch.cat(signs, -1))
        if not bool((fall > 2 * scale.shape[-1] * torch.finfo(fall.dtype).eps - 1).all()):
            raise ValueError("base: it is narrower than the product; divide by what both tokens came from")
        gain = -fall / (1 + fall)  # from the gains of the precision to those of the covariance
        pull = sum((sign * scale * m._precision_times_mean() for m, sign in parts), zero)
        along = _into(axes, pull) * gain
        mean = scale * (pull + _out_of(axes, along))
        return Manifold(mean, scale, axes, gain, axes[..., :0])

    def divergence(self, other: "Manifold") -> Float[Tensor, "*D"]:
        """Return KL(self || other) (...,) in nats: how much more this token specifies.

        Raises ValueError if `other` has an exactly known direction.
        """
        ratio = self.scale / other.scale
        fall = other.gain / (1 + other.gain)
        mine, theirs = self.axes * ratio[..., None], other.axes * ratio[..., None]
        shared = (other.axes.mT @ mine).square()
        trace = ratio.square().sum(-1)  # of the other's precision times this covariance
        trace = trace + (mine.square().sum(-2) * self.gain).sum(-1) - (theirs.square().sum(-2) * fall).sum(-1)
        trace = trace - (fall[..., :, None] * shared * self.gain[..., None, :]).sum((-1, -2))
        return 0.5 * trace - other.log_density(self.mean) - self.entropy

    def __getitem__(self, index) -> "Manifold":
        """Index the leading dimensions."""
        return Manifold(self.mean[index], self.scale[index], self.axes[index], self.gain[index], self.known[index])

    def _precision_times_mean(self) -> Tensor:
        away = self.mean / self.scale
        along = _into(self.axes, away) * self.gain / (1 + self.gain)
        return (away - _out_of(self.axes, along)) / self.scale

    def _seen(self, rows: Tensor) -> Tensor:
        """Return S^-1 Sigma rows^T (..., P, M)."""
        left = (rows * self.scale[..., None, :]).mT
        return _without(self.known, left) + self.axes @ (self.gain[..., None] * (self.axes.mT @ left))

    def _known_with(self, rows: Tensor) -> Tensor:
        """Return `known` extended by the directions that exact readings at `rows` fix, (..., P, N + len(rows))."""
        if not len(rows):
            return self.known
        new, _ = torch.linalg.qr(_without(self.known, (rows * self.scale[..., None, :]).mT))
        return torch.cat([self.known.expand(*new.shape[:-1], -1), new], -1)

    def _innovation(self, rows: Tensor, value: Tensor, deviation: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the Cholesky root (..., M, M) of the measurement's covariance, and its offset from the mean (..., M).

        Raises ValueError if that covariance is numerically singular.
        """
        noise = torch.as_tensor(deviation, dtype=rows.dtype).expand(len(rows)).square()
        left = rows * self.scale[..., None, :]
        spread = left @ self._seen(rows)
        root, failed = torch.linalg.cholesky_ex(0.5 * (spread + spread.mT) + torch.diag(noise))
        least = 1e2 * len(rows) * torch.finfo(rows.dtype).eps * (left.square().sum(-1) + noise)
        pivots = root.diagonal(dim1=-2, dim2=-1).square()
        if bool(failed.any()) or not bool((pivots > least).all()):
            raise ValueError("the measurements fix what is fixed already, exactly; give them a deviation above 0")
        return root, value - self.mean @ rows.mT


def _orthonormal(columns: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal V (..., P, R') and g > -1 with V diag(g) V^T = C diag(signs) C^T; R' = min(P, R).

    C are the `columns`. A standard deviation below about 1e-7 of the scale (in double precision) is lost in rounding,
    and is raised to that.
    """
    if columns.shape[-1] == 0:
        return columns, signs
    basis, mix = torch.linalg.qr(columns)
    small = (mix * signs[..., None, :]) @ mix.mT
    gain, turn = torch.linalg.eigh(0.5 * (small + small.mT))
    return basis @ turn, gain.clamp(min=columns.shape[-2] * torch.finfo(gain.dtype).eps - 1)


def _without(known: Tensor, columns: Tensor) -> Tensor:
    """Project columns (..., P, R) onto the complement of the span of `known`; twice, to remove rounding errors."""
    for _ in range(2 if known.shape[-1] else 0):
        columns = columns - known @ (known.mT @ columns)
    return columns


def _into(axes: Tensor, w: Tensor) -> Tensor:
    """Return the coordinates (..., R) of w (..., P) along axes (..., P, R)."""
    return torch.einsum("...pr,...p->...r", axes, w)


def _out_of(axes: Tensor, along: Tensor) -> Tensor:
    """Return the point (..., P) with coordinates `along` (..., R) on axes (..., P, R)."""
    return torch.einsum("...pr,...r->...p", axes, along)
