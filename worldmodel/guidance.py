"""Guidance: what a trained agent is to do instead of, or beside, what its rewards taught it; compiled into tensors.

A guidance is a few level sets of named quantities, which linear probes read from the latent, and may hold a value and a
policy fitted to them. `Guided` is the world model under it: the planner and the policy use it as they use any model.

Letters in shapes: Q quantities, T terms, D numbers in a latent, P in a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.layers import SquashedGaussian, twohot_mean
from worldmodel.model import ValueHeads, WorldModel
from worldmodel.probes import Probes, closeness, lifted
from worldmodel.settings import PlannerConfig, Term, Via

MOVED = 0.5
"""The share of a reading's last error by which further readings are moved (`Offsets`)."""

LEASH = 10.0
"""What a squared distance of 1 from a fitted policy's plan costs, in control steps of full reward."""


@dataclass(frozen=True)
class Fitted:
    """A value and a policy learned for a guidance, of the shapes of the model's own."""

    value: ValueHeads
    actor: nn.Sequential


@dataclass(frozen=True)
class Head:
    """A reading of a reward from a latent, cut to 0..1; `weight` (F,) and `r2` as in `Probes`."""

    weight: Float[Tensor, " F"]
    bias: float
    r2: float

    def __call__(self, z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """Return the reward in latents."""
        return ((z if len(self.weight) == z.shape[-1] else lifted(z)) @ self.weight + self.bias).clamp(0, 1)


@dataclass(frozen=True)
class Guidance:
    """Terms over probes, one for each term in their order, perhaps a reward of its own, what was fitted; via-points."""

    terms: tuple[Term, ...]
    probes: Probes
    fitted: Fitted | None = None
    head: Head | None = None
    vias: tuple[Via, ...] = ()

    def reward(
        self, z: Float[Tensor, "*B D"], moved: Tensor | float = 0.0, w: Float[Tensor, "*B P"] | None = None
    ) -> Float[Tensor, "*B"]:
        """Return how well latents fulfil the guidance, 0 to 1: its terms' `closeness` times its head's reading.

        `moved` (*B, T) is added to what the probes read. `w`: the token after which the latents were imagined.
        """
        doubt = self.probes.doubt
        if doubt is not None:
            doubt = None if w is None else doubt * w.square().mean(-1, keepdim=True).sqrt()
        met = closeness(self.terms, self.probes(z) + moved, self.probes.high - self.probes.low, doubt)
        return met if self.head is None else met * self.head(z)


class Guided(WorldModel):
    """A world model under guidance: it shares the nets of `model`, but rewards, value and policy follow the guidance.

    Each is a mean of the model's own and the guidances', of which all weigh `weight` (0 to 1) together. Without a
    fitted value, the latent at the end of a plan counts for one token more: if it counted for all that follows, plans
    would only pass there, at any speed, rather than stay.

    Without anything fitted, a search finds what the model gets wrong. So of an agent that only explored, whose policy
    holds it nowhere, a token counts for less the worse such tokens are foreseen (`Probes.doubted`), and readings are
    moved by `moved` (B, T), which follows from how B environments' last tokens turned out, as the disturbance of
    offset-free control (Pannocchia & Rawlings 2003, AIChE J. 49(2)). T are the terms of all such guidances. (An agent
    that learned from rewards needs its large tokens: a walker was where it was told to in 36 % of the end instead of
    75, one seed, five episodes.)
    """

    def __init__(self, model: WorldModel, guidances: Sequence[tuple[Guidance, float]], weight: float, discount: float):
        """Guide `model` by guidances with positive weights among each other. `discount`: over one control step."""
        self.share(model)
        total = sum(each for _, each in guidances)
        self.guidances = [(guidance, weight * each / total) for guidance, each in guidances]
        self.own = 1 - weight
        self.steps = model.config.token.steps(discount)
        self.moved = torch.zeros(1, sum(len(guidance.terms) for guidance, _ in self.free), device=model.device)
        self.fitted = nn.ModuleList(
            [part for g, _ in guidances if g.fitted for part in (g.fitted.value, g.fitted.actor)]
        )

    def leash(self, config: PlannerConfig) -> PlannerConfig:
        """Return how far plans may stray from the policy, in a planner's settings.

        A fitted value was never corrected by trying: a free search finds its errors, one that is held to the policy by
        LEASH does not. Without a fitted policy there is none of the guidance's to be held to, or to stand in for plans.
        """
        share = sum(share for guidance, share in self.guidances if guidance.fitted)
        if not share:
            return replace(config, td_check_steps=0)
        return replace(config, anchor=max(config.anchor, LEASH * share * self.steps))

    @property
    def free(self) -> list[tuple[Guidance, float]]:
        """The guidances without a fitted policy, and their shares."""
        return [each for each in self.guidances if not each[0].fitted]

    def read(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B T"]:
        """Return what the probes of the free guidances read, not moved."""
        return torch.cat([z[:, :0], *(guidance.probes(z) for guidance, _ in self.free)], -1)

    def guided_reward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"] | None = None) -> Float[Tensor, " B"]:
        """Return the guidances' weighted reward of one control step in latents, without the model's own.

        `w`: the token after which they were imagined.
        """
        fitted = [share * guidance.reward(z) for guidance, share in self.guidances if guidance.fitted]
        return sum(fitted, self._free_reward(z, w))

    def _free_reward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"] | None = None) -> Float[Tensor, " B"]:
        candidates = len(z) // len(self.moved)  # of each environment, one environment after the other
        counts = [len(guidance.terms) for guidance, _ in self.free]
        moved = self.moved.repeat_interleave(candidates, 0).split(counts, -1)
        w = w if self.explores else None
        each = [share * guidance.reward(z, own, w) for (guidance, share), own in zip(self.free, moved, strict=True)]
        return sum(each, torch.zeros_like(z[..., 0]))

    def step(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Imagine one token, as `WorldModel.step` does; its reward is what the guidance makes of the latent reached."""
        following, reward, continues = super().step(z, w)
        return following, self.own * reward + self.steps * self.guided_reward(following, w), continues

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        """Return the distribution over token points: logits are a weighted mean of the own policy's and the fitted.

        For a guidance without a fitted policy the agent's own stands in or, if it only explored, 0.
        """
        shares = [(guidance.fitted.actor, share) for guidance, share in self.guidances if guidance.fitted]
        own = self.own if self.explores else 1 - sum(share for _, share in shares)
        return self.distribution(sum((share * actor(z) for actor, share in shares), own * self.actor(z)))

    def greedy_token(
        self, z: Float[Tensor, "B D"], start: Float[Tensor, "B A"] | None = None
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
        """Return the policy's mode as a token, and its value: a weighted mean of the own and the guidances'."""
        w = self.token(self.policy(z).mode, start)
        value = torch.zeros_like(z[..., 0])
        if self.own:
            value = self.own * twohot_mean(self.value(z, w)).mean(0)
        for guidance, share in self.guidances:
            if guidance.fitted:
                value = value + share * twohot_mean(guidance.fitted.value(z, w)).amin(0)
        return w, value + self.steps * self._free_reward(z)


class Offsets:
    """How the quantities of guidances turned out in B environments, by which a `Guided` model's readings are moved.

    `moved`, and what was `foreseen` after the current token, (B, T); NaN: nothing. Of any other model there are none.
    """

    def __init__(self, model: WorldModel, count: int):
        self.model = model if isinstance(model, Guided) and model.explores and model.moved.shape[1] else None
        terms = self.model.moved.shape[1] if self.model else 0
        self.moved, self.foreseen = (torch.full((count, terms), each) for each in (0.0, math.nan))

    def reset(self, left: Bool[Tensor, " B"]) -> None:
        """Forget those of the environments (B,) whose plan was dropped."""
        self.moved[left], self.foreseen[left] = 0, math.nan

    def apply(self) -> None:
        """Have the model move its readings."""
        if self.model:
            self.model.moved = self.moved.to(self.model.device)

    def awaited(self, due: Bool[Tensor, " B"]) -> bool:
        """Return whether something was foreseen in an environment that is `due`."""
        return bool(self.foreseen[due].isfinite().any())

    def compare(self, z: Float[Tensor, "B D"], due: Bool[Tensor, " B"]) -> None:
        """Learn from the latents that a token ended in, in the environments that are `due`."""
        if self.model:
            off = (self.model.read(z).cpu() - self.foreseen).nan_to_num(0.0)
            self.moved = torch.where(due.unsqueeze(1), self.moved + MOVED * off, self.moved)

    def foresee(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"], whole: Bool[Tensor, " B"], due: Bool[Tensor, " B"]
    ) -> None:
        """Note what is to be read after a token, where (B,) one is begun and will be followed as a `whole`."""
        if self.model:
            read = self.model.read(self.model.next(self.model.transition_features(z, w))).cpu() + self.moved
            read = torch.where(whole.unsqueeze(1), read, math.nan)
            self.foreseen = torch.where(due.unsqueeze(1), read, self.foreseen)
