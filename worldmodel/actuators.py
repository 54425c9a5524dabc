"""Actuators that answer otherwise than the model learned: how much, from a few tokens, and a model that knows it.

An actuator answers an action u as the one learned on would answer g u + b. A curve's control points change alike (a
B-spline is affine in them), so gains and offsets of actions are those of tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.layers import SquashedGaussian
from worldmodel.model import WorldModel

DEAD = 0.1  # an actuator of a smaller gain does not answer
STEP, ROUNDS = 0.25, 6
"""Of the finite differences in gains and offsets, well above the rounding of bfloat16; linearisations of a fit."""
ENOUGH = 0.5  # share of the error at which a fit is good enough
RIDGE = 0.01
"""Pull of a fit to what is believed, in shares of the mean curvature: actuators that were not used stay there."""


def executed(w: Float[Tensor, "N P"], gain: Float[Tensor, "B A"], offset: Float[Tensor, "B A"]) -> Float[Tensor, "N P"]:
    """Return the tokens that would do in a whole body what `w` does; N is a multiple of B, row after row of B."""
    gain, offset = _rows(w, gain, offset)
    return (w * gain + offset).clamp(-1, 1)


def _rows(w: Float[Tensor, "N P"], *each: Float[Tensor, "B A"]) -> list[Float[Tensor, "N P"]]:
    count, size = each[0].shape
    return [x.repeat_interleave(len(w) // count, 0).repeat(1, w.shape[1] // size) for x in each]


class Corrected(WorldModel):
    """A world model of B bodies with actuators of these gains and offsets; it shares the nets of `model`.

    Its latents are those of `model`; its tokens are those to be sent to the actuators. The value after a plan is that
    of a whole body's policy.
    """

    def __init__(self, model: WorldModel, gain: Float[Tensor, "B A"], offset: Float[Tensor, "B A"]):
        """Correct `model`."""
        self.share(model)
        object.__setattr__(self, "whole", model)  # no part of this one
        self.gain, self.offset = gain.to(model.device), offset.to(model.device)

    whole: WorldModel

    def transition_features(self, z: Float[Tensor, "N D"], w: Float[Tensor, "N P"]) -> Float[Tensor, "N F"]:
        """Compute the features of one transition, as `WorldModel` does."""
        return self.whole.transition_features(z, executed(w, self.gain, self.offset))

    def step(
        self, z: Float[Tensor, "N D"], w: Float[Tensor, "N P"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Imagine one token, as `WorldModel` does."""
        return self.whole.step(z, executed(w, self.gain, self.offset))

    def policy(self, z: Float[Tensor, "N D"]) -> SquashedGaussian:
        """Return the distribution over tokens whose mode does what that of the whole body's would, as far as it can."""
        own = self.whole.policy(z)
        gain, offset = _rows(own.mean, self.gain, self.offset)
        alive = gain.abs() >= DEAD
        mode = torch.where(alive, (own.mode - offset) / torch.where(alive, gain, 1.0), 0.0)
        return SquashedGaussian(torch.atanh(mode.clamp(-0.999, 0.999)), own.log_std)

    def greedy_token(
        self, z: Float[Tensor, "N D"], start: Float[Tensor, "N A"] | None = None
    ) -> tuple[Float[Tensor, "N P"], Float[Tensor, " N"]]:
        """Return the policy's mode as a token, and the value of the whole body's."""
        return self.token(self.policy(z).mode, start), self.whole.greedy_token(z)[1]


@torch.no_grad()
def identify(
    model: WorldModel,
    z: Float[Tensor, "N D"],
    w: Float[Tensor, "N P"],
    following: Float[Tensor, "N D"],
    gain: Float[Tensor, " A"],
    offset: Float[Tensor, " A"],
) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"], float]:
    """Return each actuator's gain and offset, and the share of the error in `following` that they leave, 1 at most.

    `w`: the tokens sent in N moments, `following`: what followed. `gain`, `offset`: as believed so far. By Gauss-Newton
    steps, from the best of: as believed, one of them flipped, all of them weak, all dead. Offsets change only if gains
    alone leave more than ENOUGH: where actions hardly vary, an offset does as well.
    """
    size, believed = model.action_size, torch.cat([gain, offset])
    starts = believed.repeat(size + 3, 1)
    starts[range(1, size + 1), range(size)] *= -1
    starts[size + 1, :size], starts[size + 2, :size] = 1 / 3, 0.0
    errors = _residuals(model, z, w, following, starts).square().sum(-1)
    now, error, before = starts[int(errors.argmin())], float(errors.min()), max(float(errors[0]), 1e-12)
    for free in (size, 2 * size):
        for _ in range(ROUNDS):
            shifts = STEP * torch.eye(2 * size)[:free]
            near = _residuals(model, z, w, following, torch.cat([now + shifts, now - shifts, now[None]])).double()
            jacobian, r = (near[:free] - near[free:-1]).T / (2 * STEP), near[-1]
            curvature = jacobian.T @ jacobian
            own = curvature.diagonal()
            penalty = RIDGE * (own + own.mean() / 10).clamp(min=1e-12)
            slope = jacobian.T @ r + penalty * (now - believed)[:free].double()
            trial = now.clone()
            trial[:free] -= torch.linalg.solve(curvature + penalty.diag(), slope).float()
            trial = trial.clamp(-3, 3)
            tried = float(_residuals(model, z, w, following, trial[None]).square().sum())
            if not tried < error:
                break
            now, error = trial, tried
        if error < ENOUGH * before:
            break
    return now[:size], now[size:], error / before


def _residuals(
    model: WorldModel,
    z: Float[Tensor, "N D"],
    w: Float[Tensor, "N P"],
    following: Float[Tensor, "N D"],
    guesses: Float[Tensor, "G C"],
) -> Float[Tensor, "G E"]:
    """Return the errors of imagined latents, E = N D, under G guesses of gains and offsets, C = 2 A."""
    gain, offset = guesses.to(z.device).chunk(2, -1)
    count = len(guesses)
    sent = executed(w.repeat(count, 1), gain, offset)
    imagined = model.step(z.repeat(count, 1), sent)[0]
    return (imagined - following.repeat(count, 1)).reshape(count, -1).cpu()
