"""A motion token as a curve: a clamped uniform B-spline over the control steps of one token."""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policies.tokens.splines import design, ends, midpoints
from worldmodel.settings import TokenConfig


def basis(length: int, knots: int, degree: int) -> Float[Tensor, "L K"]:
    """Row i: the weights of the control points at control step i of a token.

    Rows are non-negative and sum to 1, so that actions lie in the hull of the control points.
    """
    return torch.from_numpy(design(midpoints(length), knots, degree)).float()


@cache
def _boundaries(length: int, knots: int, degree: int) -> Float[Tensor, "L K"]:
    """Row i: the weights of the control points where control step i of a token ends."""
    return torch.from_numpy(design(ends(length), knots, degree)).float()


@dataclass(frozen=True)
class Curve:
    """Points (..., P) with P = knots x A, and actions (..., L, A) in [-1, 1]; L = K = 1 makes both the same numbers."""

    length: int
    knots: int
    degree: int
    action_size: int
    weights: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, length: int, knots: int, degree: int, action_size: int) -> "Curve":
        """The curve of `knots` control points over `length` control steps."""
        weights = basis(length, knots, degree)
        return cls(length, knots, degree, action_size, weights, torch.linalg.pinv(weights))

    @classmethod
    def of_token(cls, token: TokenConfig, action_size: int) -> "Curve":
        """The curve of a token with these settings."""
        return cls.of(token.length, token.knots, token.degree, action_size)

    @property
    def size(self) -> int:
        """P, the numbers in a token's points."""
        return self.knots * self.action_size

    def decode(self, points: Float[Tensor, "*B P"]) -> Float[Tensor, "*B L A"]:
        """Actions along the curve."""
        return self.weights @ points.unflatten(-1, (self.knots, self.action_size))

    def encode(self, actions: Float[Tensor, "*B L A"]) -> Float[Tensor, "*B P"]:
        """Control points of the least-squares curve through the actions, clamped to [-1, 1]."""
        return (self.inverse @ actions).clamp(-1, 1).flatten(-2)

    def actions(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "*B N A"]:
        """The first N = `steps` actions of a sentence; beyond its end its last action is held."""
        known = self.decode(sentence).movedim(0, -3).flatten(-3, -2)[..., :steps, :]  # of T L
        return torch.cat([known, known[..., -1:, :].expand(*known.shape[:-2], steps - known.shape[-2], -1)], -2)

    def at(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "*B A"]:
        """Where the curves are after so many control steps: halfway between the action of the last and of the next."""
        token, within = divmod(steps - 1, self.length)
        weights = _boundaries(self.length, self.knots, self.degree)[within]
        return weights @ sentence[token].unflatten(-1, (self.knots, self.action_size))

    def advance(self, sentence: Float[Tensor, "T *B P"], steps: int) -> Float[Tensor, "T *B P"]:
        """The sentence of T tokens as it stands `steps` control steps later.

        By whole tokens it is exact, and the last token repeats at the end; in the middle of a token each curve is
        fitted to what is left of two, and the last action is held at the end.
        """
        tokens, rest = divmod(steps, self.length)
        if rest == 0:
            return torch.cat([sentence[tokens:], sentence[-1:].expand(min(tokens, len(sentence)), *sentence.shape[1:])])
        later = self.actions(sentence, len(sentence) * self.length + steps)[..., steps:, :]
        return self.encode(later.unflatten(-2, (len(sentence), self.length)).movedim(-3, 0))

    def advance_each(self, sentences: Float[Tensor, "T B P"], steps: Int[Tensor, " B"]) -> Float[Tensor, "T B P"]:
        """Each of B sentences as it stands so many control steps later."""
        later = sentences.clone()
        for count in steps.unique().tolist():
            chosen = steps == count
            later[:, chosen] = self.advance(sentences[:, chosen], count)
        return later
