"""Action tokens as curves: clamped uniform B-splines over the control steps of one token.

A curve is given by control points c (K, ...) and a degree p < K: y(t) = sum_i N_i(t) c_i, t in [0, 1]. It begins at
c_0, ends at c_{K-1} and lies in the convex hull of its control points. Its derivative is a curve whose control points
are differences of c. Bounds on control points thus bound position, and bounds on differences the rate. Source: de Boor
1978, A Practical Guide to Splines.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.settings import TokenConfig


@cache
def knots(count: int, degree: int) -> np.ndarray:
    """Return the read-only clamped knot vector (count + degree + 1,) on [0, 1]. Raises ValueError."""
    if not 0 <= degree < count:
        raise ValueError(f"degree={degree}: 0 to {count - 1} for {count} control points")
    inner = np.linspace(0, 1, count - degree + 1)
    result = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    result.flags.writeable = False
    return result


def midpoints(length: int) -> np.ndarray:
    """Return the times of a token's control steps (length,) on its curve: step i is at (i + 1/2) / length."""
    return (np.arange(length) + 0.5) / length


def ends(length: int) -> np.ndarray:
    """Return the times (length,), (i + 1) / length, of control steps on a curve that begins one step before them."""
    return (np.arange(length) + 1) / length


def design(at: np.ndarray, count: int, degree: int) -> np.ndarray:
    """Return the matrix (len(at), count) from control points to the curve's points at times `at`.

    Its rows are non-negative and sum to 1: degree by degree, each function gives its value to itself and the one before
    in the shares of the time left and right in its span (de Boor 1978, ch. X). Time is in units of the whole token;
    times outside [0, 1] are clipped.
    """
    places = np.clip(np.asarray(at, dtype=float), 0, 1)
    k, result = knots(count, degree), np.zeros((len(places), count))
    span = np.searchsorted(k[degree + 1 : count], places, "right") + degree  # k_span <= t < k_{span+1}
    columns = span + np.arange(-degree, 1)[:, None]  # all but these are 0 there
    values = np.zeros(columns.shape)
    values[0] = 1
    for p in range(1, degree + 1):
        lower, values[0] = values[:p].copy(), 0
        for n in range(p):
            left, right = k[span + n + 1 - p], k[span + n + 1]
            share = lower[n] / (right - left)
            values[n] += share * (right - places)
            values[n + 1] = share * (places - left)
    result[np.arange(len(places)), columns] = values
    return result


def gaps(count: int, degree: int) -> np.ndarray:
    """Return k_{i+p+1} - k_{i+1} (count - 1,): the span of the curve over which control point i gives way to i + 1."""
    k = knots(count, degree)
    return k[degree + 1 : count + degree] - k[1:count]


def final_slope(points: Float[np.ndarray, "K A"], degree: int) -> Float[np.ndarray, " A"]:
    """Return the curve's derivative at its end: p (c_{K-1} - c_{K-2}) / (the span between the two points)."""
    return degree * (points[-1] - points[-2]) / gaps(len(points), degree)[-1] if degree else 0 * points[-1]


@cache
def _boundaries(length: int, control_points: int, degree: int) -> Float[Tensor, "L K"]:
    """Return the weights of the control points (columns) at the end of each control step of a token (rows)."""
    return torch.from_numpy(design(ends(length), control_points, degree)).float()


@dataclass(frozen=True)
class Curve:
    """Conversion between a token's points (..., P), P = control points x A, and its actions (..., L, A) in [-1, 1].

    Each action is a convex combination of the control points. With length = control_points = 1 it is the only one.
    """

    length: int
    control_points: int
    degree: int
    action_size: int
    weights: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, length: int, control_points: int, degree: int, action_size: int) -> "Curve":
        """Build the curve of `control_points` control points over `length` control steps."""
        weights = torch.from_numpy(design(midpoints(length), control_points, degree)).float()
        return cls(length, control_points, degree, action_size, weights, torch.linalg.pinv(weights))

    @classmethod
    def of_token(cls, token: TokenConfig, action_size: int) -> "Curve":
        """Build the curve of a token with these settings."""
        return cls.of(token.length, token.control_points, token.degree, action_size)

    @property
    def size(self) -> int:
        """P, the number of entries in a token."""
        return self.control_points * self.action_size

    def decode(self, points: Float[Tensor, "*B P"]) -> Float[Tensor, "*B L A"]:
        """Return the actions at the control steps of the curve."""
        return self.weights @ points.unflatten(-1, (self.control_points, self.action_size))

    def encode(self, actions: Float[Tensor, "*B L A"]) -> Float[Tensor, "*B P"]:
        """Return the control points of the least-squares curve through the actions, clamped to [-1, 1]."""
        return (self.inverse @ actions).clamp(-1, 1).flatten(-2)

    def actions(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "*B N A"]:
        """Return the first N = `steps` actions of a plan (`sentence`); the last action is held beyond its end."""
        known = self.decode(sentence).movedim(0, -3).flatten(-3, -2)[..., :steps, :]  # at most T x L actions
        return torch.cat([known, known[..., -1:, :].expand(*known.shape[:-2], steps - known.shape[-2], -1)], -2)

    def at(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "*B A"]:
        """Return the position on the curves after `steps` >= 1 control steps, halfway to the next one's action."""
        token, within = divmod(steps - 1, self.length)
        weights = _boundaries(self.length, self.control_points, self.degree)[within]
        return weights @ sentence[token].unflatten(-1, (self.control_points, self.action_size))

    def advance(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "T *B P"]:
        """Shift a plan of T tokens forward in time by `steps` control steps.

        A shift by whole tokens is exact, and repeats the last token at the end. Otherwise each curve is refitted to the
        remaining parts of two neighbouring tokens, and the last action is held at the end.
        """
        tokens, rest = divmod(steps, self.length)
        if rest == 0:
            return torch.cat([sentence[tokens:], sentence[-1:].expand(min(tokens, len(sentence)), *sentence.shape[1:])])
        later = self.actions(sentence, len(sentence) * self.length + steps)[..., steps:, :]
        return self.encode(later.unflatten(-2, (len(sentence), self.length)).movedim(-3, 0))

    def advance_each(self, sentences: Float[Tensor, "T B P"], steps: Int[Tensor, " B"]) -> Float[Tensor, "T B P"]:
        """Shift each of B plans forward by its own number of control steps, as `advance` does."""
        later = sentences.clone()
        for count in steps.unique().tolist():
            chosen = steps == count
            later[:, chosen] = self.advance(sentences[:, chosen], count)
        return later
