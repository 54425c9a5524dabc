"""A motion token as a curve: a clamped uniform B-spline over the control steps of one token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policies.splines import design, midpoints
from worldmodel.settings import TokenConfig


def basis(length: int, knots: int, degree: int) -> Float[Tensor, "L K"]:
    """Row i: the weights of the control points at control step i of a token.

    Rows are non-negative and sum to 1, so that actions lie in the hull of the control points.
    """
    return torch.from_numpy(design(midpoints(length), knots, degree)).float()


@dataclass(frozen=True)
class Curve:
    """Tokens (..., P) with P = knots x A, and actions (..., L, A) in [-1, 1]; L = K = 1 makes both the same numbers."""

    config: TokenConfig
    action_size: int
    weights: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, config: TokenConfig, action_size: int) -> "Curve":
        """The curve of a token's settings."""
        weights = basis(config.length, config.knots, config.degree)
        return cls(config, action_size, weights, torch.linalg.pinv(weights))

    @property
    def token_size(self) -> int:
        """Numbers in one token."""
        return self.config.knots * self.action_size

    def decode(self, token: Float[Tensor, "*B P"]) -> Float[Tensor, "*B L A"]:
        """Actions along the curve."""
        return self.weights @ token.unflatten(-1, (self.config.knots, self.action_size))

    def encode(self, actions: Float[Tensor, "*B L A"]) -> Float[Tensor, "*B P"]:
        """Control points of the least-squares curve through the actions, clamped to [-1, 1]."""
        return (self.inverse @ actions).clamp(-1, 1).flatten(-2)
