"""Fit a value and a policy to a guidance on what an agent remembers, with the world model held.

So a guided search sees beyond its horizon. Half of each batch begins where the agent was, with the token it executed;
the other half begins where imagined plans led, with tokens such as a search tries, so that the value is corrected where
a search would exploit it. All targets follow the newest policy in imagination (as Hafner et al. 2020, arXiv 1912.01603,
section 3), with the guidance's reward.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from worldmodel.guidance import Fitted, Guidance
from worldmodel.layers import SquashedGaussian, twohot_cross_entropy, twohot_mean
from worldmodel.learner import flatten, width
from worldmodel.losses import soft_value
from worldmodel.model import ValueHeads, WorldModel

BATCH, HORIZON, TRIED_STD = 128, 5, 0.5
"""Tokens a batch, tokens a target looks ahead, and the largest noise of a token that is tried."""
LEARNING_RATE, TAU, ENTROPY, CLIP, AVERAGED = 1e-3, 0.05, 1e-4, 20.0, 300
"""Of Adam; of the target net; of the policy's entropy; of the gradient's norm; updates that the result averages."""
POOL = 4 * BATCH
"""How many imagined latents new batches may begin at."""
TOLD = 25
"""Updates between two calls of `tick`."""


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
    tick: Callable[[int], None] = lambda update: None,
) -> Fitted:
    """Learn a value and a policy for `updates`, beginning with the model's own; `discount` per control step.

    `tick` is called with the number of updates done, now and then. Raises ArithmeticError if a loss is not finite.
    """
    value, actor = copy.deepcopy(model.value).requires_grad_(True), copy.deepcopy(model.actor).requires_grad_(True)
    imagining = _Imagining(model, guidance, actor, copy.deepcopy(value).requires_grad_(False), discount, generator)
    newest, target = (flatten(value), flatten(actor)), flatten(imagining.target)
    means = [each.clone() for each in newest]
    adam = torch.optim.Adam([*value.parameters(), *actor.parameters()], lr=LEARNING_RATE, foreach=True)
    scale, pool = torch.ones((), device=target.device), memory.z
    for update in range(updates):
        z, w, returns, pool = imagining.batch(memory, pool)
        loss_value = twohot_cross_entropy(value(z, w), returns).mean()
        points, density = imagining.policy(z).sample(imagining.noise(len(z)))
        frozen = {name: p.detach() for name, p in value.named_parameters()}
        token = model.token(points, model.starts(w))
        values = twohot_mean(functional_call(value, frozen, (z, token))).mean(0)
        loss = loss_value + soft_value(density, values, scale, ENTROPY).mean()
        if not bool(torch.isfinite(loss)):
            raise ArithmeticError(f"update {update} of the fit: the loss is not finite")
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*value.parameters(), *actor.parameters()], CLIP)
        adam.step()
        with torch.no_grad():
            target.lerp_(newest[0], TAU)
            for mean, net in zip(means, newest, strict=True):
                mean.lerp_(net, max(1 / (update + 1), 1 / AVERAGED))
            scale.lerp_(width(values.detach()).clamp(min=1.0), 0.01)
        if (update + 1) % TOLD == 0 or update + 1 == updates:
            tick(update + 1)
    for mean, net in zip(means, newest, strict=True):
        net.copy_(mean)
    return Fitted(value.requires_grad_(False), actor.requires_grad_(False))


@dataclass(frozen=True)
class _Imagining:
    """Imagines batches with the held model, under the policy that is being learned; `target`: the target value."""

    model: WorldModel
    guidance: Guidance
    actor: torch.nn.Module
    target: ValueHeads
    discount: float
    generator: torch.Generator

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        return self.model.distribution(self.actor(z))

    def noise(self, count: int) -> Float[Tensor, "B P"]:
        return torch.randn(count, self.model.points, generator=self.generator).to(self.model.device)

    @torch.no_grad()
    def batch(self, memory: Remembered, pool: Float[Tensor, "M D"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents (B, D), tokens (B, P), their returns (B,), and the next pool (M, D) of imagined latents."""
        model, half = self.model, BATCH // 2
        rows = torch.randint(len(memory.z), (BATCH,), generator=self.generator)
        again = torch.randint(len(pool), (half // 2,), generator=self.generator)
        z, w = memory.z[rows], memory.token[rows]
        z[: half // 2] = pool[again]
        size = TRIED_STD * torch.rand(half, 1, generator=self.generator).to(z.device)
        tried = (self.policy(z[:half]).mode + size * self.noise(half)).clamp(-1, 1)
        w[:half] = model.token(tried, model.starts(w[:half]))
        imagined, continues = self._step(z[:half], w[:half])
        state = torch.cat([imagined, memory.following[rows[half:]]])
        kept = self.over * torch.cat([continues, memory.continues[rows[half:]]])
        total, end, visited = self.reward(state), model.ends(w), [state]
        for _ in range(HORIZON - 1):
            token = model.token(self.policy(state).sample(self.noise(BATCH))[0], end)
            state, continues = self._step(state, token)
            end = model.ends(token)
            total, kept = total + kept * self.reward(state), kept * self.over * continues
            visited.append(state)
        token = model.token(self.policy(state).sample(self.noise(BATCH))[0], end)
        total = total + kept * twohot_mean(self.target(state, token)).amin(0)
        order = torch.randperm(len(visited) * BATCH, generator=self.generator)[:POOL]
        return z, w, total, torch.cat(visited)[order]

    def reward(self, z: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return the guidance's reward of a token that ends in these latents."""
        return self.model.config.token.steps(self.discount) * self.guidance.reward(z)

    @property
    def over(self) -> float:
        """The discount over one token."""
        return self.model.config.token.discount(self.discount)

    def _step(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.transition_features(z, w)
        return self.model.next(features), torch.sigmoid(self.model.outcome(features)[..., -1])
