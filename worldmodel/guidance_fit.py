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
from worldmodel.layers import SquashedGaussian, twohot_cross_entropy, twohot_mean
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
    batch: int = 96,
    horizon: int = 10,
    std: float = 0.5,
    lr: float = 1e-3,
    tau: float = 0.02,
    entropy: float = 1e-4,
    fresh: bool = False,
    lam: float = 0.95,
    pooled: float = 0.33,
    executed: float = 0.33,
    grad: float = 0.0,
    warm: int = 0,
    actor_lr: float = 1e-3,
    tick: Callable = lambda info: None,
) -> Fitted:
    """Learn for `updates`; `discount` per control step."""
    steps = sum(discount**i for i in range(model.config.token.length))
    over = model.config.token.discount(discount)
    value, actor = copy.deepcopy(model.value), copy.deepcopy(model.actor)
    for p in [*value.parameters(), *actor.parameters()]:
        p.requires_grad_(True)
    if fresh:
        from worldmodel.layers import BOUND, bins, symlog

        value.net[-1].weight.data.zero_()
        level = symlog(guidance.reward(memory.z).mean() * steps / (1 - over))
        count = model.config.bins
        hot = (1 - (bins(count) - level).abs() / (2 * BOUND / (count - 1))).clamp(min=1e-3)
        value.net[-1].bias.data.copy_((hot / hot.sum()).log().expand_as(value.net[-1].bias))
    target = copy.deepcopy(value).requires_grad_(False)
    flat_value, flat_actor, flat_target = flatten(value), flatten(actor), flatten(target)
    mean_value, mean_actor = flat_value.clone(), flat_actor.clone()
    adam = torch.optim.Adam(value.parameters(), lr=lr, foreach=True)
    adam_actor = torch.optim.Adam(actor.parameters(), lr=actor_lr, foreach=True)
    scale = torch.ones(())
    frozen_model = copy.deepcopy(model).requires_grad_(False)
    functional_call_features = lambda m, z, w: m.transition_features(z, w)
    pool = memory.z[:batch]
    again, kept = round(pooled * batch), round(executed * batch)
    size = model.points

    def policy(z):
        logits = actor(z)
        return SquashedGaussian.from_logits(logits * model.chosen if model.shared else logits)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    for update in range(updates):
        rows = torch.randint(len(memory.z), (batch,), generator=generator)
        z, start = memory.z[rows], model.starts(memory.token[rows])
        places = torch.randint(len(pool), (again,), generator=generator)
        z = torch.cat([z[: batch - again], pool[places]])
        states, tokens, rewards, continues = [z], [], [], []
        with torch.no_grad():
            for t in range(horizon):
                found = policy(z)
                points, _ = found.sample(draw(batch, size))
                if t == 0:
                    noisy = found.mode + std * torch.rand(batch, 1, generator=generator) * draw(batch, size)
                    points = torch.where(torch.arange(batch).unsqueeze(1) % 2 == 0, noisy.clamp(-1, 1), points)
                    points[:kept] = memory.token[rows[:kept]]
                w = model.token(points, start)
                features = model.transition_features(z, w)
                z, start = model.next(features), model.ends(w)
                tokens.append(w)
                states.append(z)
                rewards.append(steps * guidance.reward(z))
                continues.append(over * torch.sigmoid(model.outcome(features)[..., -1]))
            after, taken = torch.stack(states[1:]).flatten(0, 1), torch.stack(tokens)
            points, _ = policy(after).sample(draw(len(after), size))
            worth = (
                twohot_mean(target(after, model.token(points, model.ends(taken.flatten(0, 1)))))
                .amin(0)
                .view(horizon, -1)
            )
            total, totals = worth[-1], []
            for t in reversed(range(horizon)):
                total = rewards[t] + continues[t] * ((1 - lam) * worth[t] + lam * total)
                totals.append(total)
            totals = torch.stack(totals[::-1]).flatten()
            places = torch.randint(len(after), (batch,), generator=generator)
            pool = torch.cat([pool, after[places]])[-8 * batch :]
        before, taken = torch.stack(states[:-1]).flatten(0, 1), taken.flatten(0, 1)
        loss_value = twohot_cross_entropy(value(before, taken), totals).mean()
        points, density = policy(before).sample(draw(len(before), size))
        frozen = {name: p.detach() for name, p in value.named_parameters()}
        values = twohot_mean(functional_call(value, frozen, (before, model.token(points, model.starts(taken))))).mean(0)
        if update < warm:
            loss = loss_value
        elif grad:
            za, sa = before[:batch], model.starts(taken[:batch])
            ret, fac = 0.0, torch.ones(())
            for t in range(int(grad)):
                pts, _ = policy(za).sample(draw(batch, size))
                wa = model.token(pts, sa)
                feats = functional_call_features(frozen_model, za, wa)
                za, sa = frozen_model.next(feats), model.ends(wa)
                ret = ret + fac * steps * guidance.reward(za)
                fac = fac * over * torch.sigmoid(frozen_model.outcome(feats)[..., -1])
            pts = model.token(policy(za).mode, sa)
            ret = ret + fac * twohot_mean(functional_call(value, frozen, (za, pts))).mean(0)
            loss = loss_value + (entropy * density).mean() - (ret / scale).mean()
        else:
            loss = loss_value + (entropy * density - values / scale).mean()
        adam.zero_grad()
        adam_actor.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*value.parameters(), *actor.parameters()], 20.0)
        adam.step()
        if update >= warm:
            adam_actor.step()
        with torch.no_grad():
            flat_target.lerp_(flat_value, tau)
            pull = max(1 / (update + 1), 1 / 200)
            mean_value.lerp_(flat_value, pull)
            mean_actor.lerp_(flat_actor, pull)
            scale.lerp_(width(values.detach()).clamp(min=1.0), 0.02)
        if update % 250 == 249:
            tick(
                {
                    "update": update + 1,
                    "loss_value": float(loss_value.detach()),
                    "values": float(values.detach().mean()),
                    "scale": float(scale),
                    "r": float(torch.stack(rewards).mean()),
                }
            )
    flat_value.copy_(mean_value)
    flat_actor.copy_(mean_actor)
    for p in [*value.parameters(), *actor.parameters()]:
        p.requires_grad_(False)
    return Fitted(value, actor)
