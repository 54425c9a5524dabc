"""From a distribution over control points to its curve: linear readings, a tube around it, a motion, constraints."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from policies.distributions.manifold import Manifold
from policies.tokens.splines import design, midpoints
from policies.tokens.vocabulary import Move


@dataclass(frozen=True)
class Strand:
    """A curve of `knots` control points in `size` dimensions. A token (P,) concatenates them, P = knots x size."""

    knots: int
    size: int
    degree: int

    def rows(
        self, times: float | np.ndarray, derivative: int = 0, dimensions: list[int] | None = None
    ) -> Float[Tensor, "M P"]:
        """Return the rows that read position (or its `derivative`-th derivative) from a token at times in [0, 1].

        M = times x dimensions (all of them by default), ordered by time first; rates are per whole token.
        """
        weights = design(np.atleast_1d(np.asarray(times, dtype=float)), self.knots, self.degree, derivative)
        chosen = np.eye(self.size)[slice(None) if dimensions is None else dimensions]
        return torch.from_numpy(np.kron(weights, chosen))

    def state_rows(self) -> Float[Tensor, "M P"]:
        """Return the rows (2 size, P) that read position and rate at the curve's beginning, i.e. the robot's state."""
        return torch.cat([self.rows(0.0), self.rows(0.0, 1)])

    def decode(self, tokens: Float[Tensor, "*B P"], times: np.ndarray) -> Float[Tensor, "*B T A"]:
        """Return positions along the curves at times (T,) in [0, 1]."""
        weights = torch.from_numpy(design(times, self.knots, self.degree)).to(tokens.dtype)
        return weights @ tokens.unflatten(-1, (self.knots, self.size))

    def encode(self, chunks: Float[Tensor, "*B T A"]) -> Float[Tensor, "*B P"]:
        """Return the control points of the least-squares curves through chunks of T control steps."""
        weights = design(midpoints(chunks.shape[-2]), self.knots, self.degree)
        return (torch.from_numpy(np.linalg.pinv(weights)).to(chunks.dtype) @ chunks).flatten(-2)

    def tube(self, token: Manifold, times: np.ndarray) -> tuple[Float[Tensor, "*B T A"], Float[Tensor, "*B T A"]]:
        """Return mean and standard deviation of the curve's position at times (T,) in [0, 1]."""
        mean, deviation = token.read(self.rows(times))
        return mean.unflatten(-1, (-1, self.size)), deviation.unflatten(-1, (-1, self.size))

    def move(self, token: Manifold, seconds: float) -> Move:
        """Return the mean curve as a motion of `seconds`, clamped to [-1, 1], with the points' deviations as spread."""
        mean, deviation = token.read(torch.eye(self.knots * self.size, dtype=token.mean.dtype))
        shape = (self.knots, self.size)
        return Move(mean.clamp(-1, 1).view(shape).numpy(), seconds, self.degree, deviation.view(shape).numpy())


def within(
    tokens: Float[Tensor, "*B P"], rows: Float[Tensor, "M P"], value: Float[Tensor, "*C M"], rounds: int = 20
) -> Float[Tensor, "*D P"]:
    """Bring tokens into [-1, 1] with little change, so that they still read `value` (..., M) at `rows`.

    In each round control points are clamped, and the error this causes in the readings is corrected by the least-norm
    change of those points that are not held back by a bound. Position readings within [-1, 1] can be met. Works for
    samples and means alike.
    """
    w = tokens.expand(*torch.broadcast_shapes(tokens.shape[:-1], value.shape[:-1]), -1)
    ridge = torch.finfo(w.dtype).eps * torch.eye(len(rows), dtype=w.dtype)
    for _ in range(rounds):
        w = w.clamp(-1, 1)
        gap = value - w @ rows.mT
        push = gap @ rows
        free = rows * ~(((w >= 1) & (push > 0)) | ((w <= -1) & (push < 0)))[..., None, :]
        w = w + (free.mT @ torch.linalg.solve(free @ free.mT + ridge, gap[..., None]))[..., 0]
    return w.clamp(-1, 1)
