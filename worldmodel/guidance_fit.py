"""Fit a value and a policy to a guidance on what an agent remembers, with the world model held.

So a guided search sees beyond its horizon. Imagination begins where the agent was, half of the time where the guidance
is best fulfilled, and where earlier imagination led. The first token is the executed one or one such as a search tries,
so that the value is corrected where a search would exploit it; the following ones are the newest policy's. The value
learns what the imagined tokens earned; the policy, once the value has settled, from the gradient of that through the
model (as Hafner et al. 2020, arXiv 1912.01603, section 3).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.guidance import Fitted, Guidance
from worldmodel.layers import SquashedGaussian, twohot_cross_entropy, twohot_mean
from worldmodel.learner import flatten, width
from worldmodel.losses import soft_value
from worldmodel.model import ValueHeads, WorldModel

BATCH, HORIZON, TRIED_STD = 64, 10, 0.5
"""Rollouts a batch, tokens of the policy in each, and the largest noise of a first token that is tried."""
LEARNING_RATE, TAU, ENTROPY, CLIP, AVERAGED = 1e-3, 0.1, 1e-4, 20.0, 300
"""Of Adam, fading to 0; of the target net; of the policy's entropy; of the gradient's
norm; updates that the result averages."""
SETTLING = 0.15
"""Share of the updates in which only the value learns: what the agent's own policy earns."""
PRIORITY = 0.6
"""Half of the batches' moments are drawn with a probability of rank^-PRIORITY, ranked by the guidance's reward."""
ANEW = 0.1
"""Share of the rollouts which go on from earlier ones that begins at a remembered moment again."""
REPORTED = 25
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
    """Learn value and policy from the model's own; `tick` gets the updates done. Raises ArithmeticError."""
    value, actor = copy.deepcopy(model.value).requires_grad_(True), copy.deepcopy(model.actor).requires_grad_(True)
    imagining = _Imagining(model, guidance, actor, copy.deepcopy(value).requires_grad_(False), discount, generator)
    newest, target = (flatten(value), flatten(actor)), flatten(imagining.target)
    means = [each.clone() for each in newest]
    adam = torch.optim.Adam([*value.parameters(), *actor.parameters()], lr=LEARNING_RATE, foreach=True)
    fading = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, updates)
    going: Tensor | None = None  # where rollouts ended
    scale, weight = torch.ones((), device=target.device), imagining.priority(memory)
    for update in range(updates):
        z, w, continues, following = imagining.begin(memory, weight, going)
        settled = update >= SETTLING * updates
        with torch.set_grad_enabled(settled):
            states, tokens, density, returns = imagining.ahead(following, model.ends(w), continues)
        visited, did = torch.cat([z[None], states[1:-1:2].detach()]), torch.cat([w[None], tokens[1:-1:2].detach()])
        logits = value(visited.flatten(0, 1), did.flatten(0, 1))
        loss = twohot_cross_entropy(logits, returns[:-1:2].detach().flatten()).mean()
        if settled:
            loss = loss + soft_value(density.flatten(), returns[1:].flatten(), scale, ENTROPY).mean()
        if not bool(torch.isfinite(loss)):
            raise ArithmeticError(f"update {update} of the fit: the loss is not finite")
        adam.zero_grad()
        loss.backward()
        for part in (value, actor):
            torch.nn.utils.clip_grad_norm_(part.parameters(), CLIP)
        adam.step()
        fading.step()
        with torch.no_grad():
            target.lerp_(newest[0], TAU)
            for mean, net in zip(means, newest, strict=True):
                mean.lerp_(net, max(1 / (update + 1), 1 / AVERAGED))
            scale.lerp_(width(returns.detach().flatten()).clamp(min=1.0), max(1 / (update + 1), 0.05))
            going = states[-1, : BATCH // 2].detach()
        if (update + 1) % REPORTED == 0 or update + 1 == updates:
            tick(update + 1)
    for mean, net in zip(means, newest, strict=True):
        net.copy_(mean)
    return Fitted(value.requires_grad_(False), actor.requires_grad_(False))


@dataclass(frozen=True)
class _Imagining:
    """Imagines with the held model, under the policy that is being learned; `target`: the target value."""

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
    def priority(self, memory: Remembered) -> Float[Tensor, " N"]:
        """Return how likely each moment is to be drawn by the guidance's reward, times a constant."""
        order, weight = self.guidance.reward(memory.following).argsort(descending=True), torch.empty(len(memory.z))
        weight[order.cpu()] = torch.arange(1.0, len(order) + 1) ** -PRIORITY
        return weight

    @torch.no_grad()
    def begin(
        self, memory: Remembered, weight: Float[Tensor, " N"], going: Float[Tensor, "M D"] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents (B, D), first tokens (B, P), whether it goes on after them (B,), and what follows (B, D)."""
        model, half = self.model, BATCH // 2
        drawn = torch.multinomial(weight, half, True, generator=self.generator)
        rows = torch.cat([drawn, torch.randint(len(memory.z), (half,), generator=self.generator)])
        rows = rows[torch.randperm(BATCH, generator=self.generator)]
        z, w = memory.z[rows], memory.token[rows]
        if going is not None:
            anew = torch.rand(half, 1, generator=self.generator).to(z.device) < ANEW
            z[:half] = torch.where(anew, z[:half], going)
        size = TRIED_STD * torch.rand(half, 1, generator=self.generator).to(z.device)
        tried = (self.policy(z[:half]).mode + size * self.noise(half)).clamp(-1, 1)
        w[:half] = model.token(tried, model.starts(w[:half]))
        imagined, continues = self._step(z[:half], w[:half])
        continues = torch.cat([continues, memory.continues[rows[half:]]])
        return z, w, continues, torch.cat([imagined, memory.following[rows[half:]]])

    def ahead(
        self, z: Float[Tensor, "B D"], end: Float[Tensor, "B A"], continues: Float[Tensor, " B"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Imagine H tokens of the policy: return latents (H, B, D) from z on, tokens (H, B, P), log-densities (H, B).

        And returns (H + 1, B): of the tokens that led to each latent, and of the last token by the target value.
        """
        states, tokens, densities, kept = [z], [], [], [continues]
        for t in range(HORIZON):
            points, density = self.policy(states[-1]).sample(self.noise(BATCH))
            tokens.append(self.model.token(points, end))
            densities.append(density)
            if t + 1 < HORIZON:
                following, continues = self._step(states[-1], tokens[-1])
                end = self.model.ends(tokens[-1])
                states.append(following)
                kept.append(continues)
        token = self.model.config.token
        visited, gone = torch.stack(states), token.discount(self.discount) * torch.stack(kept).detach()
        reward = token.steps(self.discount) * self.guidance.reward(visited)
        returns = [twohot_mean(self.target(states[-1], tokens[-1])).amin(0)]
        for t in reversed(range(HORIZON)):
            returns.append(reward[t] + gone[t] * returns[-1])
        return visited, torch.stack(tokens), torch.stack(densities), torch.stack(returns[::-1])

    def _step(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.transition_features(z, w)
        return self.model.next(features), torch.sigmoid(self.model.outcome(features)[..., -1])
