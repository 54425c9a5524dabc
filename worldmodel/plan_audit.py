"""Audit of plans: whether the returns that plans promise are realised.

A plan that promises the return G owes interest on it: by Bellman's equation along the path actually taken,
G = r + k G', where k is the discount times the probability that the episode continues. So each decision must yield
(1 - k) G, as reward or as growth of the promised return. A search that exploits an error of the value function promises
the same return again and again without realising any of it: the agent stands still, expecting much. The audit uses the
model's own units, with the rewards it imagines for the actions executed in the latents reached, so it needs no reward
from the environment.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHARE = 0.5
"""Fraction of the interest that must be paid."""


class Account(NamedTuple):
    """State of the audit of B environments, each field (B,).

    due, paid: exponentially fading sums of interest and of imagined reward. mean: fading mean of the promised returns
    before the last one. worth: the return promised by the last plan. keep, reward, steps: of the last decision, its
    effective discount k, imagined reward and duration in control steps (0: no decision yet). left: control steps for
    which the policy still acts.
    """

    due: Tensor
    paid: Tensor
    mean: Tensor
    worth: Tensor
    keep: Tensor
    reward: Tensor
    steps: Tensor
    left: Tensor

    @classmethod
    def opened(cls, count: int) -> "Account":
        """Return an empty account for `count` environments."""
        return cls(*torch.zeros(len(cls._fields), count))

    def where(self, chosen: Bool[Tensor, " B"], other: "Account") -> "Account":
        """Take this account for the environments (B,) chosen and `other` for the rest."""
        return Account(*(torch.where(chosen, mine, theirs) for mine, theirs in zip(self, other, strict=True)))


class PlanAudit:
    """Keeps account of the plans of B environments and decides where the policy should act instead.

    If an environment's plans paid less than half of the interest on their promised returns over the last `patience`
    control steps (an exponential window), the policy acts there for as many steps.

    B may change between calls of `broken`; the account then starts afresh.
    """

    def __init__(self, patience: int, indifference: float):
        """Open an empty account. `patience` is in control steps; `indifference` is a negligible return."""
        self.patience, self.indifference = patience, indifference
        self.account = Account.opened(0)

    def broken(self, worth: Float[Tensor, " B"], asked: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return where, among the environments `asked`, the policy should act; `worth`: the newest plans' returns."""
        if len(self.account.steps) != len(worth):
            self.account = Account.opened(len(worth))
        last = self.account
        fading = (1 - last.steps / self.patience).clamp(min=0)
        held = last.left > 0
        due = torch.where(held, 0, fading * last.due + (1 - last.keep) * last.worth)
        paid = torch.where(held, 0, fading * last.paid + last.reward)
        mean = torch.where(held | (last.steps == 0), worth, fading * last.mean + (1 - fading) * last.worth)
        left = (last.left - last.steps).clamp(min=0)

        rate = (1 - last.keep) / last.steps.clamp(min=1)
        interest = rate * self.patience * (worth.abs() + self.indifference)
        missing = due - paid - (worth - mean).clamp(min=0)
        broken = (last.steps > 0) & (left == 0) & (missing > (1 - SHARE) * interest)
        left = torch.where(broken, float(self.patience), left)

        self.account = last._replace(due=due, paid=paid, mean=mean, worth=worth, left=left).where(asked, last)
        return asked & (self.account.left > 0)

    def note(
        self,
        reward: Float[Tensor, " B"],
        keep: Float[Tensor, " B"],
        steps: Float[Tensor, " B"],
        asked: Bool[Tensor, " B"],
    ) -> None:
        """Record what was decided in the environments `asked`.

        `reward`: imagined over the decision's `steps` control steps. `keep`: effective discount after them, i.e. the
        discount times the probability that the episode continues.
        """
        self.account = self.account._replace(reward=reward, keep=keep, steps=steps).where(asked, self.account)

    def forget(self, ended: Bool[Tensor, " B"]) -> None:
        """Clear the account of the environments (B,) that ended."""
        if len(self.account.steps) == len(ended):
            self.account = Account.opened(len(ended)).where(ended, self.account)
