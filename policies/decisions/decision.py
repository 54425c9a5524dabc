"""What an agent decided, and what its decisions cost."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Totals:
    """Totals over all environments: decisions, control `steps` they covered, model steps as if each was made alone."""

    decisions: int = 0
    steps: int = 0
    model_calls: int = 0

    @property
    def model_calls_per_decision(self) -> float:
        """Mean calls of the model's step per decision."""
        return self.model_calls / self.decisions


@dataclass(frozen=True)
class Decision:
    """The plans of B environments and the actions to execute.

    tokens (T, B, P): the plans; T = 1 for the policy alone. actions (B, N, A): their first N actions (while exploring,
    of the noisy elites). until (B,): for how many control steps they are followed, at most N. by_policy (B,): where the
    policy decided, as it does where plans did not pay off (`worldmodel.planner.TDCheck`): only the first token counts.
    Where no decision was due, `tokens` and `by_policy` are of a plan that is not followed. imagined: latents (B, D) and
    rewards (B,) after the first token, None if not computed.
    """

    tokens: Float[Tensor, "T B P"]
    actions: Float[Tensor, "B N A"]
    until: Int[Tensor, " B"]
    by_policy: Bool[Tensor, " B"]
    imagined: tuple[Float[Tensor, "B D"], Float[Tensor, " B"]] | None = None

    def plan(self, env: int) -> Float[Tensor, "T P"]:
        """Return the decision in one environment: a plan's tokens, or the single token of the policy."""
        return self.tokens[: 1 if self.by_policy[env] else None, env]
