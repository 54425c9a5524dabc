"""A check of plans by temporal differences: do they deliver the return that they predict?

Along the executed path a correct plan satisfies G = r + k G' (Bellman), where G is its expected return, r the reward of
the decision, k the discount times the probability that the episode continues, and G' the next plan's expected return.
So each decision must yield (1 - k) G, as reward or as an increase of G. A search that exploits an error of the value
function predicts the same return again and again and realises none of it: the agent stalls. Rewards are those that the
model imagines for the executed actions in the latents reached, so that no reward of the environment is needed.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHARE = 0.5
"""Fraction of the predicted yield that must be realised."""


class TDCheck:
    """Decides in which of B environments the policy should act instead of the plans.

    If an environment's plans realised less than SHARE of the predicted yield over the last `patience` control steps (an
    exponential window), the policy acts there for as many steps. If B changes, the check starts afresh.

    Rows of `state` (8, B): exponentially fading sums of (1 - k) G and of r; the fading mean of the expected returns
    before the last one; the last plan's expected return; k, r and the duration in control steps of the last decision
    (0: none yet); the control steps for which the policy still acts.
    """

    def __init__(self, patience: int, indifference: float):
        """`patience` is in control steps; `indifference` is a negligible return."""
        self.patience, self.indifference, self.state = patience, indifference, torch.zeros(8, 0)

    def failed(self, expected_return: Float[Tensor, " B"], due: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return where, among the environments `due` for a decision, the policy should act; given the newest plans'."""
        if self.state.shape[1] != len(due):
            self.state = torch.zeros(8, len(due))
        predicted, realised, mean, last_return, discount, reward, steps, policy_steps = self.state
        fading, held = (1 - steps / self.patience).clamp(min=0), policy_steps > 0
        predicted = torch.where(held, 0, fading * predicted + (1 - discount) * last_return)
        realised = torch.where(held, 0, fading * realised + reward)
        mean = torch.where(held | (steps == 0), expected_return, fading * mean + (1 - fading) * last_return)
        policy_steps = (policy_steps - steps).clamp(min=0)

        missing = predicted - realised - (expected_return - mean).clamp(min=0)
        rate = (1 - discount) / steps
        window = rate * self.patience * (expected_return.abs() + self.indifference)  # predicted over `patience` steps
        failed = missing > (1 - SHARE) * window  # nothing is missing at a first decision, nor while the policy acts
        policy_steps = torch.where(failed, float(self.patience), policy_steps)
        new = [predicted, realised, mean, expected_return, discount, reward, steps, policy_steps]
        self.state = torch.where(due, torch.stack(new), self.state)
        return due & (policy_steps > 0)

    def record(
        self,
        reward: Float[Tensor, " B"],
        discount: Float[Tensor, " B"],
        steps: Float[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> None:
        """Record r, k and the control steps of what was decided in the environments that were `due`."""
        self.state[4:7] = torch.where(due, torch.stack([discount, reward, steps]), self.state[4:7])

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the environments (B,) that ended."""
        if self.state.shape[1] == len(ended):
            self.state[:, ended] = 0
