"""What an agent decided, and what deciding took."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Spent:
    """So far, over all environments: `decisions`, the control `steps` they were for, and calls of the model's step that
    they took (`imagined`), each as if made alone: what is planned along with it where none is due is not counted."""

    decisions: int = 0
    steps: int = 0
    imagined: int = 0

    @property
    def imagined_per_decision(self) -> float:
        """Calls of the model's step that a decision took in the mean."""
        return self.imagined / self.decisions


@dataclass(frozen=True)
class Decision:
    """For each of B environments: the `sentences` (T, B, P) that were decided, of the policy alone T = 1, their first
    `actions` (B, N, A), and for how many control steps (`until`, (B,)) they are followed, at most N.

    `by_policy` (B,): where the policy decided: everywhere without a planner, with one where it stands in for plans that
    did not pay (`worldmodel.plan_audit`). Of such a sentence the first token is the policy's, and the rest nobody's.
    """

    sentences: Float[Tensor, "T B P"]
    actions: Float[Tensor, "B N A"]
    until: Int[Tensor, " B"]
    by_policy: Bool[Tensor, " B"]

    def sentence(self, of: int) -> Float[Tensor, "T P"]:
        """What was decided in one environment: a plan's tokens, or the policy's one."""
        return self.sentences[: 1 if self.by_policy[of] else None, of]
