"""How far plans are to be trusted: how much of the gain over the policy that they promise comes true.

A plan promises the gain A = J(plan) - J(policy's own plan), both imagined from the same latent. What the steps then
taken gain over the policy is the sum of their advantages (Kakade & Langford 2002, lemma 6.1), each
d = r + k J(policy, z') - J(policy, z) with the latent z' that was reached, not the imagined one: by the model's own
rewards, so without one from the environment. A search that exploits an error of model or value promises a gain at each
step and gains nothing. As in a trust-region method (Conn, Gould & Toint 2000), the promised is compared with the
realised: the shortfall per squared distance from the policy is the weight of a penalty on that distance.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PRIOR = 0.1
"""Weight of the prior belief that plans keep their promises, relative to a whole window of observations."""


class Step(NamedTuple):
    """The last decision in B environments, each field (B,).

    own: return of the policy's own plan, and keep, reward: as in `plan_audit.Account`. promise: the gain over the
    policy that was promised over the whole plan, which lasts `lasts` decisions, discounted. far: squared distance of
    plan and policy. known: 1 if there was a decision; planned: 1 if the plan was executed.
    """

    own: Tensor
    reward: Tensor
    keep: Tensor
    promise: Tensor
    lasts: Tensor
    far: Tensor
    known: Tensor
    planned: Tensor

    @classmethod
    def none(cls, count: int) -> "Step":
        """Return no decision in any of `count` environments."""
        return cls(*torch.zeros(len(cls._fields), count))


class Leash:
    """Estimates the shortfall of plans, common to all environments, over about `window` control steps in each."""

    def __init__(self, window: float, near: float):
        """Open with no evidence. `near`: a negligible squared distance of two plans."""
        self.window, self.near = window, near
        self.last = Step.none(0)
        self.short, self.far, self.weight = torch.zeros(3)  # fading sums of shortfalls, squared distances and ones

    def observe(self, own: Float[Tensor, " B"], steps: Float[Tensor, " B"], due: Bool[Tensor, " B"]) -> None:
        """Learn from the last decisions in the environments that are `due`, which lasted for `steps` control steps.

        `own`: the return of the policy's own plan from where they led.
        """
        if len(self.last.known) != len(own):
            self.last = Step.none(len(own))
        last = self.last
        here = due & (last.known > 0)
        if not bool(here.any()):
            return
        gained = last.lasts * (last.reward + last.keep * own - last.own)
        counted = here * last.planned
        fading = (1 - steps[here].mean() / self.window).clamp(min=0)
        share = 1 / here.sum()
        self.short = fading * self.short + share * (counted * (last.promise - gained)).sum()
        self.far = fading * self.far + share * (counted * last.far).sum()
        self.weight = fading * self.weight + share * counted.sum()

    def note(self, step: Step, due: Bool[Tensor, " B"]) -> None:
        """Record what was decided in the environments that are `due`."""
        self.last = Step(*(torch.where(due, new, old) for new, old in zip(step, self.last, strict=True)))

    def forget(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the last decision of the environments (B,) that ended, but nothing that was learned."""
        if len(self.last.known) == len(ended):
            self.last = self.last._replace(known=torch.where(ended, 0, self.last.known))

    @property
    def prior(self) -> float:
        """The weight of the prior, as many observations in a whole window are summed to `window`."""
        return PRIOR * self.window

    @property
    def anchor(self) -> Float[Tensor, ""]:
        """The mean shortfall per squared distance; at least 0."""
        return (self.short / (self.far + self.near * (self.weight + self.prior))).clamp(min=0)

    @property
    def margin(self) -> Float[Tensor, ""]:
        """The mean shortfall of a plan; at least 0."""
        return (self.short / (self.weight + self.prior)).clamp(min=0)

    def state(self) -> Float[Tensor, "N B"]:
        """Return everything as one tensor."""
        sums = torch.stack([self.short, self.far, self.weight]).unsqueeze(1).expand(-1, len(self.last.known))
        return torch.cat([torch.stack(list(self.last)), sums])

    def load(self, state: Float[Tensor, "N B"]) -> None:
        """Restore what `state` returned."""
        self.last = Step(*state[:-3].clone())
        self.short, self.far, self.weight = state[-3:, 0].clone()
