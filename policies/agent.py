"""The acting policy: observation in, action out, one token at a time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.curves import Curve
from policies.noise import Noise
from worldmodel.model import STATE, WorldModel
from worldmodel.planner import Memory, Plan, Planner


class Agent:
    """Acts for B environments: keeps each one's current sentence, decodes it at control rate, plans the next in time.

    B may change from one call to the next; then everything is forgotten.
    """

    def __init__(
        self,
        model: WorldModel,
        curve: Curve,
        planner: Planner | None,
        generator: torch.Generator,
        explore: str = "",
        every: int = 0,
    ):
        """Without a planner the policy's mode is executed, with one the elites' mean.

        With `explore`, white or pink, it is an elite drawn by its weight, plus noise of that colour and of the plan's
        own spread. `every`: control steps from one decision to the next; 0: a token's length. Up to that length the
        rest of a token is dropped; beyond, the plan's next tokens are followed unseen, as far as there are any (the
        policy alone has one). Raises ValueError for more steps than a plan has.
        """
        self.model, self.curve, self.planner = model, curve, planner
        self.generator, self.noise = generator, Noise(explore, generator) if explore else None
        known = curve.config.length * (planner.config.horizon if planner else 1)
        if every > known and planner:
            raise ValueError(f"planner.replan_every={every}: at most {known}, the control steps of a plan")
        self.every = min(every or curve.config.length, known)
        self.ahead = -(-self.every // curve.config.length)  # tokens that may be executed before the next decision
        self.memory: Memory | None = None
        self.plan: Plan | None = None  # the newest, which a film shows
        self.actions: Tensor | None = None
        self.at = torch.zeros(0, dtype=torch.long)
        self.spread = 0.0
        self.decided, self.imagined = 0, 0  # decisions, and calls of the model's step, so far over all environments
        self.choice: list[Tensor | None] = []  # the tokens (P,) that the planner chose in the last `act`, where it did

    def reset(self, ended: Bool[Tensor, "B"]) -> None:
        """Forget the token and the plan of the environments (B,) whose episode ended."""
        self.at[ended] = self.every
        if self.memory is not None:
            self.memory = Memory(self.memory.mean, self.memory.valid & ~ended.to(self.memory.valid.device))

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Float[Tensor, "B A"]:
        """The next action (B, A) in [-1, 1] for each observation; `observation.state` is (B, S)."""
        count = len(observation[STATE])
        if self.actions is None or len(self.at) != count:
            self.memory = None
            self.at = torch.full((count,), self.every)
            self.actions = torch.zeros(count, self.every, self.curve.action_size)
        due = self.at >= self.every
        self.choice = [None] * count
        if bool(due.any()):
            self._begin(observation, due)
        action = self.actions[torch.arange(count), self.at]
        self.at += 1
        return action

    def _begin(self, observation: dict[str, Tensor], due: Bool[Tensor, "B"]) -> None:
        """Decide anew where it is time to; the others keep their tokens, and their memory."""
        self.decided += int(due.sum())
        if self.planner is None:
            tokens = self.model.policy(self.model.encode(observation)).mode.cpu().unsqueeze(0)
        else:
            plan = self.plan = self.planner.plan(observation, self.memory, self.generator)
            later = self.curve.advance(plan.tokens.cpu(), self.every).to(plan.tokens.device)
            self.memory = Memory.of(later).where(due, self.memory)
            tokens, spread = plan.tokens[: self.ahead].cpu(), plan.spread[: self.ahead].cpu()
            self.spread = float(spread[0].mean())
            self.imagined += int(plan.imagined[due].sum())
            self.choice = [tokens[0, i] if due[i] else None for i in range(len(due))]
            if self.noise is not None:
                chosen = torch.multinomial(plan.weights.cpu(), 1, generator=self.generator)
                elite = plan.elites[: self.ahead].cpu()[:, torch.arange(len(chosen)), chosen[:, 0]]
                noise = torch.stack([self.noise.draw(*tokens.shape[1:]) for _ in tokens])
                tokens = (elite + spread * noise).clamp(-1, 1)
        actions = self.curve.decode(tokens).movedim(0, 1).flatten(1, 2)[:, : self.every]
        # A mean of bounded tokens, or of control points, can be an ulp out of bounds.
        self.actions = torch.where(due[:, None, None], actions.clamp(-1, 1), self.actions)
        self.at[due] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """What the next action depends on, beside the model."""
        saved = {} if self.noise is None else {"noise": self.noise.parts}
        if self.actions is None:
            return saved
        saved |= {"actions": self.actions, "at": self.at, "spread": torch.tensor(self.spread)}
        if self.memory is not None:
            saved |= {"memory_mean": self.memory.mean, "memory_valid": self.memory.valid}
        return saved

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.actions, self.memory = saved.get("actions"), None
        if self.noise is not None:
            self.noise.parts = saved["noise"]
        if self.actions is not None:
            self.at, self.spread = saved["at"].clone(), float(saved["spread"])
        if "memory_mean" in saved:
            self.memory = Memory(saved["memory_mean"], saved["memory_valid"])
