"""Rollouts in imagination for the planner: plans that the policy proposes, and the returns of candidate plans.

Plain functions of a model, so that they can be compiled.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.elites import Elites, fit_elites
from worldmodel.model import WorldModel
from worldmodel.settings import PlannerConfig


def propose(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    noise: Float[Tensor, "T B N P"],
    start: Float[Tensor, "B A"] | None = None,
) -> Float[Tensor, "T B N P"]:
    """Roll the policy out in imagination, N times per latent; noise 0 gives the policy's mode.

    `start`: where the previous tokens ended, as for `WorldModel.token`.
    """
    horizon, size, count, _ = noise.shape
    z = z.repeat_interleave(count, 0)
    start = None if start is None else start.repeat_interleave(count, 0)
    tokens = []
    for t in range(horizon):
        points, _ = model.policy(z).sample(noise[t].flatten(0, 1))
        w = model.token(points, start)
        start = model.ends(w)
        tokens.append(w.view(size, count, -1))
        if t + 1 < horizon:
            z = model.next(model.transition_features(z, w))
    return torch.stack(tokens)


def score(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    tokens: Float[Tensor, "T B N P"],
    discount: float,
    pessimistic: bool = False,
) -> Float[Tensor, "B N"]:
    """Compute the return of each plan: its discounted imagined rewards plus the value at its end.

    The value is the mean of the heads or, if `pessimistic`, the smallest.
    """
    total, factor, values = _rollout(model, z, tokens, discount)
    total = total + factor * (values.amin(0) if pessimistic else values.mean(0))
    return total.view(tokens.shape[1], tokens.shape[2])


def judge(
    model: WorldModel, z: Float[Tensor, "B D"], tokens: Float[Tensor, "T B N P"], discount: float
) -> Float[Tensor, "E B N"]:
    """Compute the return of each plan by each value head."""
    total, factor, values = _rollout(model, z, tokens, discount)
    return (total + factor * values).view(-1, tokens.shape[1], tokens.shape[2])


def _rollout(
    model: WorldModel, z: Float[Tensor, "B D"], tokens: Float[Tensor, "T B N P"], discount: float
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, "E M"]]:
    """Return the M = B N plans' discounted imagined rewards, the discount at the end, and the value there by head."""
    horizon, _, count, _ = tokens.shape
    z = z.repeat_interleave(count, 0)
    total, factor = torch.zeros(len(z), device=z.device), torch.ones(len(z), device=z.device)
    for t in range(horizon):
        w = tokens[t].flatten(0, 1)
        imagined = model.step(z, w)
        total = total + factor * imagined.reward
        factor = factor * discount * torch.sigmoid(imagined.continue_logit)
        z = imagined.latent
    return total, factor, model.greedy_values(z, model.ends(w))[1]


def foresee(
    model: WorldModel, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"], discount: float
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return the imagined reward of one token, and the effective discount of the value after it.

    The latter is `discount` (over one whole token) times the probability that the episode continues.
    """
    imagined = model.step(z, w)
    return imagined.reward, discount * torch.sigmoid(imagined.continue_logit)


def refine(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    kept: Float[Tensor, "T B K P"],
    kept_returns: Float[Tensor, "B K"],
    fresh: Float[Tensor, "T B N P"],
    mode: Float[Tensor, "T B 1 P"],
    discount: float,
    config: PlannerConfig,
    anchor: Float[Tensor, ""] | None = None,
) -> Elites:
    """Run one iteration: score the `fresh` plans, then fit elites to them and to those `kept` from before.

    `mode`: the policy's own plan; `anchor` (by default the settings') penalises the squared distance to it.
    """
    fresh_returns = score(model, z, fresh, discount, config.leash == "value")
    if anchor is not None:
        fresh_returns = fresh_returns - anchor * (fresh - mode).square().sum((0, 3))
    elif config.anchor:
        fresh_returns = fresh_returns - config.anchor * (fresh - mode).square().sum((0, 3))
    returns = torch.cat([kept_returns, fresh_returns], 1)
    return fit_elites(torch.cat([kept, fresh], 2), returns, config)
