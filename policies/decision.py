"""What an agent decided, and what its decisions cost."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Spent:
    """Totals so far over all environments: `decisions`, the control `steps` they covered, and the cost in model steps.

    `imagined`: calls of the model's step, counted for each decision as if it were made alone. What is computed along
    with it for environments in which none is due does not count.
    """

    decisions: int = 0
    steps: int = 0
    imagined: int = 0

    @property
    def imagined_per_decision(self) -> float:
        """Mean calls of the model's step per decision."""
        return self.imagined / self.decisions


@dataclass(frozen=True)
class Decision:
    """The plans of B environments and the actions to execute.

    `sentences` (T, B, P): the plans; T = 1 for the policy alone. `actions` (B, N, A): their first N actions (while
    exploring, those of the noisy elites instead). `until` (B,): for how many control steps the actions are followed, at
    most N. `by_policy` (B,): where the policy decided: without a planner everywhere, with one where the policy stands
    in for plans that did not pay off (`worldmodel.td_check`). There only the first token of the plan is meaningful.
    """

    sentences: Float[Tensor, "T B P"]
    actions: Float[Tensor, "B N A"]
    until: Int[Tensor, " B"]
    by_policy: Bool[Tensor, " B"]

    def sentence(self, of: int) -> Float[Tensor, "T P"]:
        """Return the decision in environment `of`: a plan's tokens, or the single token of the policy."""
        return self.sentences[: 1 if self.by_policy[of] else None, of]
