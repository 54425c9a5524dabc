"""Fit a value and a policy to a guidance on what an agent remembers, with the world model held."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from worldmodel.guidance import Fitted, Guidance
from worldmodel.learner import flatten, width
from worldmodel.layers import twohot_cross_entropy, twohot_mean
from worldmodel.model import WorldModel


@dataclass(frozen=True)
class Remembered:
    """N tokens that were executed: latents (N, D) before and after, the token (N, P), whether the episode went on."""

    z: Float[Tensor, "N D"]
    token: Float[Tensor, "N P"]
    following: Float[Tensor, "N D"]
    continues: Float[Tensor, " N"]


def fit(
    model: WorldModel,
    guidance: Guidance,
    memory: Remembered,
    discount: float,
    updates: int,
    generator: torch.Generator,
    batch: int = 256,
    horizon: int = 5,
    std: float = 0.5,
    lr: float = 1e-3,
    tau: float = 0.02,
    entropy: float = 1e-4,
    fresh: bool = False,
    imagined: float = 0.5,
    tick: Callable = lambda info: None,
) -> Fitted:
    """Learn for `updates`; `discount` per control step."""
    steps = sum(discount**i for i in range(model.config.token.length))
    over = model.config.token.discount(discount)
    value, actor = copy.deepcopy(model.value), copy.deepcopy(model.actor)
    for p in [*value.parameters(), *actor.parameters()]:
        p.requires_grad_(True)
    if fresh:
        for p in value.net[-1].parameters():
            p.data.zero_()
    target = copy.deepcopy(value).requires_grad_(False)
    flat_value, flat_actor, flat_target = flatten(value), flatten(actor), flatten(target)
    mean_value, mean_actor = flat_value.clone(), flat_actor.clone()
    adam = torch.optim.Adam([{"params": value.parameters()}, {"params": actor.parameters()}], lr=lr, foreach=True)
    scale = torch.ones(())
    own = model.actor
    pool = memory.z[:batch]
    invented = round(imagined * batch)
    size = model.points
    from worldmodel.layers import SquashedGaussian

    def policy(z):
        logits = actor(z)
        return SquashedGaussian.from_logits(logits * model.chosen if model.shared else logits)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    for update in range(updates):
        rows = torch.randint(len(memory.z), (batch,), generator=generator)
        z, w, following, continues = (
            memory.z[rows],
            memory.token[rows].clone(),
            memory.following[rows],
            memory.continues[rows],
        )
        with torch.no_grad():
            # a part of the batch begins where the search went, with actions such as it tries
            if invented:
                again = torch.randint(len(pool), (invented // 2,), generator=generator)
                z = torch.cat([pool[again], z[len(again) :]])
                start = model.starts(w[:invented])
                tried = policy(z[:invented]).mode + std * torch.rand(invented, 1, generator=generator) * draw(
                    invented, size
                )
                w[:invented] = model.token(tried.clamp(-1, 1), start)
                features = model.transition_features(z[:invented], w[:invented])
                following = torch.cat([model.next(features), following[invented:]])
                ends = torch.sigmoid(model.outcome(features)[..., -1])
                continues = torch.cat([ends, continues[invented:]])
            total, factor, state, end = steps * guidance.reward(following), over * continues, following, model.ends(w)
            visited = [following]
            for _ in range(horizon - 1):
                points, _ = policy(state).sample(draw(batch, size))
                token = model.token(points, end)
                features = model.transition_features(state, token)
                state, end = model.next(features), model.ends(token)
                total = total + factor * steps * guidance.reward(state)
                factor = factor * over * torch.sigmoid(model.outcome(features)[..., -1])
                visited.append(state)
            points, _ = policy(state).sample(draw(batch, size))
            total = total + factor * twohot_mean(target(state, model.token(points, end))).amin(0)
            pool = torch.cat(visited)[torch.randperm(len(visited) * batch, generator=generator)[: 4 * batch]]
        loss_value = twohot_cross_entropy(value(z, w), total).mean()
        points, density = policy(z).sample(draw(batch, size))
        frozen = {name: p.detach() for name, p in value.named_parameters()}
        values = twohot_mean(functional_call(value, frozen, (z, model.token(points, model.starts(w))))).mean(0)
        loss = loss_value + (entropy * density - values / scale).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*value.parameters(), *actor.parameters()], 20.0)
        adam.step()
        with torch.no_grad():
            flat_target.lerp_(flat_value, tau)
            pull = max(1 / (update + 1), 1 / 300)
            mean_value.lerp_(flat_value, pull)
            mean_actor.lerp_(flat_actor, pull)
            scale.lerp_(width(values.detach()).clamp(min=1.0), 0.02)
        if update % 250 == 249:
            tick(
                {
                    "update": update + 1,
                    "loss_value": float(loss_value),
                    "values": float(values.mean()),
                    "scale": float(scale),
                }
            )
    flat_value.copy_(mean_value)
    flat_actor.copy_(mean_actor)
    for p in [*value.parameters(), *actor.parameters()]:
        p.requires_grad_(False)
    return Fitted(value, actor)
