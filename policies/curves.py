"""A motion token as a curve: a clamped uniform B-spline over the control steps of one token."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import BSpline
from torch import Tensor

from worldmodel.settings import TokenConfig


def basis(length: int, knots: int, degree: int) -> Float[Tensor, "L K"]:
    """Row i: the weights of the control points at control step i, the curve's parameter being (i + 1/2) / length.

    Rows are non-negative and sum to 1, so that actions lie in the hull of the control points.
    Source: de Boor 1978; scipy.interpolate.BSpline.design_matrix evaluates it.
    """
    inner = np.linspace(0, 1, knots - degree + 1)
    padded = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    at = (np.arange(length) + 0.5) / length
    return torch.from_numpy(BSpline.design_matrix(at, padded, degree).toarray()).float()


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
