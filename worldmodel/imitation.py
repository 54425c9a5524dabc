"""The loss of learning from recordings alone: imagination agrees with what followed, the policy with what was done."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.losses import encode_with_dropout
from worldmodel.model import WorldModel
from worldmodel.observation import Observation


@dataclass(frozen=True)
class ImitationBatch:
    """B windows of recordings, of H tokens.

    seen: observations (H+1, B). token (H, B, P). keep (B, n): 1 for senses that are not hidden. whole (H, B): 1 where
    every step of the token was recorded. followed (H, B): 1 where the observation after it was recorded, too.
    """

    seen: Observation
    keep: Float[Tensor, "B n"]
    token: Float[Tensor, "H B P"]
    whole: Float[Tensor, "H B"]
    followed: Float[Tensor, "H B"]


def imitation_loss(model: WorldModel, windows: ImitationBatch, consistency: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss () of learning from recordings alone, without reward and value, and its parts.

    consistency x mean |z_t+1 - sg(encode(o_t+1))|^2 over imagined latents z_t+1 = next(z_t, w_t), z_0 = encode(o_0),
    plus mean |mode(policy(encode(o_t))) - w_t|^2. Both train the encoder. Imagination and policy start from the senses
    kept; the targets sg(...) use all. With several senses, add consistency x the squared distance of the first latents
    of the two. Parts: `loss_consistency`, `loss_imitation` and, with several senses, `loss_agreement`.
    """
    steps = len(windows.token)
    keep = windows.keep.repeat(steps + 1, 1)
    ready = model.preprocess(windows.seen.map(lambda x: x.flatten(0, 1)))
    seen, whole = (z.unflatten(0, (steps + 1, -1)) for z in encode_with_dropout(model, ready, keep))
    unrolled = enumerate(model.unroll(seen[0], windows.token), 1)
    apart = [(z - whole[t]).square().mean(-1) for t, (z, _) in unrolled]
    mode = model.policy(seen[:-1].flatten(0, 1)).mode.unflatten(0, (steps, -1))
    off = (mode - windows.token).square().mean(-1)
    parts = {
        "loss_consistency": _mean(torch.stack(apart), windows.followed),
        "loss_imitation": _mean(off, windows.whole),
    }
    total = consistency * parts["loss_consistency"] + parts["loss_imitation"]
    if len(model.senses) > 1:
        parts["loss_agreement"] = (seen[0] - whole[0]).square().mean()
        total = total + consistency * parts["loss_agreement"]
    return total, {name: value.detach() for name, value in parts.items()}


def _mean(values: Float[Tensor, "H B"], weight: Float[Tensor, "H B"]) -> Tensor:
    """Return the mean of `values` where `weight` is 1, or 0 if it is nowhere 1."""
    return (values * weight).sum() / weight.sum().clamp(min=1)
