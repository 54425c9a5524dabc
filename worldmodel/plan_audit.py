"""Whether plans pay what they promise.

A plan that is worth G owes the interest on it: by Bellman's equation along the way really taken, G = r + k G', where k
is the discount times the probability that the episode goes on. So (1 - k) G must come at every decision, as reward or
as growth of the worth. A search that has found an error of the value promises the same again and again, and none of it
comes: the agent stands still, expecting much. All is counted in the model's own units, by the rewards it imagines for
what was really done in latents really reached, so that it needs none from the world.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHARE = 0.5
"""Of the interest, what must be paid."""


class Account(NamedTuple):
    """Of B environments, each (B,): fading sums of interest `due` and reward `paid`, and the fading `mean` of the worth
    before the last; the last decision's `worth`, what of it is to be kept (`keep`, k) after its `steps`, and `reward`;
    and `left`, control steps that the policy still acts for. `steps` is 0 where there was no decision."""

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
        """Nothing yet, for `count` environments."""
        return cls(*torch.zeros(len(cls._fields), count))

    def where(self, chosen: Bool[Tensor, " B"], other: "Account") -> "Account":
        """This account for the environments (B,) chosen, the other one for the rest."""
        return Account(*(torch.where(chosen, mine, theirs) for mine, theirs in zip(self, other, strict=True)))


class PlanAudit:
    """Keeps account of the plans of B environments. One whose plans paid less than half of the interest on their worth
    over the last `patience` control steps (as an exponential window) is left to the policy for as many.

    B may change from one call to the next; then everything is forgotten.
    """

    def __init__(self, patience: int, indifference: float):
        """`indifference`: a worth that counts for little, in the unit of returns."""
        self.patience, self.indifference = patience, indifference
        self.account = Account.opened(0)

    def broken(self, worth: Float[Tensor, " B"], asked: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Where the policy should act, of the environments asked for, given what their newest plans are worth."""
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
        """What was decided there: for how many control steps, the reward imagined for them, and what is kept after them
        of a worth, which is the discount times the probability that the episode goes on."""
        self.account = self.account._replace(reward=reward, keep=keep, steps=steps).where(asked, self.account)

    def forget(self, ended: Bool[Tensor, " B"]) -> None:
        """Begin anew in these environments."""
        if len(self.account.steps) == len(ended):
            self.account = Account.opened(len(ended)).where(ended, self.account)
