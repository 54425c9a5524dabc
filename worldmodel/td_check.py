"""A check of plans by temporal differences: do they deliver the return that they predict?

Along the executed path a correct plan satisfies G = r + k G' (Bellman), where G is its expected return, r the reward of
the decision, k the discount times the probability that the episode continues, and G' the next plan's expected return.
So each decision must yield (1 - k) G, as reward or as an increase of G. A search that exploits an error of the value
function predicts the same return again and again and realises none of it: the agent stalls. Rewards are those that the
model imagines for the executed actions in the latents reached, so that no reward of the environment is needed.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHARE = 0.5
"""Fraction of the predicted yield that must be realised."""


class State(NamedTuple):
    """What is known of B environments, each field (B,).

    predicted, realised: exponentially fading sums of (1 - k) G and of r. mean_return: fading mean of the expected
    returns before the last one. expected_return: of the last plan. discount, reward, steps: k, r and the duration in
    control steps of the last decision (0: none yet). policy_steps: control steps for which the policy still acts.
    """

    predicted: Tensor
    realised: Tensor
    mean_return: Tensor
    expected_return: Tensor
    discount: Tensor
    reward: Tensor
    steps: Tensor
    policy_steps: Tensor

    @classmethod
    def zero(cls, count: int) -> "State":
        """Return the state of `count` environments in which nothing was decided."""
        return cls(*torch.zeros(len(cls._fields), count))

    def where(self, chosen: Bool[Tensor, " B"], other: "State") -> "State":
        """Take this state for the environments (B,) chosen and `other` for the rest."""
        return State(*(torch.where(chosen, mine, theirs) for mine, theirs in zip(self, other, strict=True)))


class TDCheck:
    """Decides in which of B environments the policy should act instead of the plans.

    If an environment's plans realised less than SHARE of the predicted yield over the last `patience` control steps (an
    exponential window), the policy acts there for as many steps. If B changes, the check starts afresh.
    """

    def __init__(self, patience: int, indifference: float):
        """`patience` is in control steps; `indifference` is a negligible return."""
        self.patience, self.indifference, self.state = patience, indifference, State.zero(0)

    def failed(self, expected_return: Float[Tensor, " B"], due: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return where, among the environments `due` for a decision, the policy should act; given the newest plans'."""
        if len(self.state.steps) != len(expected_return):
            self.state = State.zero(len(expected_return))
        last = self.state
        fading = (1 - last.steps / self.patience).clamp(min=0)
        held = last.policy_steps > 0
        predicted = torch.where(held, 0, fading * last.predicted + (1 - last.discount) * last.expected_return)
        realised = torch.where(held, 0, fading * last.realised + last.reward)
        mean = fading * last.mean_return + (1 - fading) * last.expected_return
        mean = torch.where(held | (last.steps == 0), expected_return, mean)
        policy_steps = (last.policy_steps - last.steps).clamp(min=0)

        missing = predicted - realised - (expected_return - mean).clamp(min=0)
        rate = (1 - last.discount) / last.steps.clamp(min=1)
        window = rate * self.patience * (expected_return.abs() + self.indifference)  # predicted over `patience` steps
        failed = (last.steps > 0) & (policy_steps == 0) & (missing > (1 - SHARE) * window)
        policy_steps = torch.where(failed, float(self.patience), policy_steps)
        new = State(predicted, realised, mean, expected_return, *last[4:7], policy_steps)
        self.state = new.where(due, last)
        return due & (self.state.policy_steps > 0)

    def record(
        self,
        reward: Float[Tensor, " B"],
        discount: Float[Tensor, " B"],
        steps: Float[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> None:
        """Record r, k and the control steps of what was decided in the environments that were `due`."""
        self.state = self.state._replace(reward=reward, discount=discount, steps=steps).where(due, self.state)

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the environments (B,) that ended."""
        if len(self.state.steps) == len(ended):
            self.state = State.zero(len(ended)).where(ended, self.state)
