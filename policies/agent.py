"""The acting policy: observation in, action out, one token at a time."""

from collections.abc import Sequence
from dataclasses import astuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.decision import Decision, Spent
from policies.frame_stack import FrameStack
from policies.storage.folders import part
from policies.tokens.curves import Curve
from policies.training.noise import Noise
from policies.words import WORDS, recognised
from worldmodel.mistakes import Mistake
from worldmodel.model import WorldModel
from worldmodel.plan_audit import PlanAudit
from worldmodel.planner import Memory, Plan, Planner
from worldmodel.senses import LANGUAGE_KEY
from worldmodel.settings import PlannerConfig


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
        heard: Tensor | None = None,
    ):
        """Without a planner the policy's mode is executed, with one the elites' mean.

        With `explore`, white, pink or mixed, it is an elite drawn by its weight, plus noise of that colour and of the
        plan's own spread; without, the policy acts for a while where plans did not pay what they promised. `every`:
        control steps from one decision to the next; 0: a token's length. Up to that length the rest of a token is
        dropped; beyond, the plan's next tokens are followed unseen, as far as there are any (the policy alone has one).
        `heard` (K, T): the sentences of the training, as which others are recognised. Raises ValueError for more steps
        than a plan has.
        """
        self.model, self.curve, self.planner = model, curve, planner
        self.generator, self.noise = generator, Noise(explore, generator) if explore else None
        known = curve.length * (planner.config.horizon if planner else 1)
        if every > known and planner:
            raise Mistake(f"planner.replan_every={every}: at most {known}, the control steps of a plan")
        self.heard = heard
        self.most = every or curve.length  # control steps between two decisions, at most
        self.ahead = -(-self.most // curve.length)  # tokens that may be executed before the next decision
        self.spread = 0.0
        self.spent = Spent()
        self.planned_tokens: list[Tensor | None] = []  # (P,), chosen by the planner in the last `act`, where it did
        self.forget()

    @classmethod
    def acting(
        cls,
        model: WorldModel,
        config: PlannerConfig,
        step_discount: float,
        sentences: Sequence[str],
        generator: torch.Generator,
        planned: bool = True,
        compiled: bool = False,
    ) -> "Agent":
        """An agent that does not explore: by a planner with these settings, or by the policy alone.

        `step_discount`: of one control step. `sentences`: those of the training.
        """
        token = model.config.token
        curve = Curve.of_token(token, model.action_size)
        planner = Planner(model, token.discount(step_discount), config, compiled) if planned else None
        return cls(model, curve, planner, generator, every=config.replan_every, heard=WORDS.known(sentences))

    def forget(self) -> None:
        """Begin anew, with any number of environments."""
        self.memory: Memory | None = None
        self.plan: Plan | None = None  # the newest
        self.decision: Decision | None = None  # the newest, which need not be that plan
        self.actions: Tensor | None = None
        self.reached: Tensor | None = None  # (B, A): where the curves end that are followed, if joined
        self.at = self.until = torch.zeros(0, dtype=torch.long)
        self.frame_stack = FrameStack(self.model.config.vision.lags)
        self.plan_audit: PlanAudit | None = None
        if self.planner is not None and self.planner.config.patience and self.noise is None:
            self.plan_audit = PlanAudit(self.planner.config.patience, self.planner.config.indifference)

    @property
    def steps_per_decision(self) -> float:
        """Control steps from one decision to the next, in the mean so far; at most as many before the first."""
        return self.spent.steps / self.spent.decisions if self.spent.decisions else float(self.most)

    def due(self, count: int) -> Bool[Tensor, " B"]:
        """Which of `count` environments decide anew in the next `act`."""
        return self.at >= self.until if len(self.at) == count else torch.ones(count, dtype=torch.bool)

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the token and the plan of the environments (B,) whose episode ended."""
        if self.noise is not None:
            self.noise.reset(ended)
        self.frame_stack.forget(ended)
        self._drop(ended)

    def _drop(self, left: Bool[Tensor, " B"]) -> None:
        """Let the token and the plan of these environments (B,) be over; if there are as many as before."""
        if self.actions is None or len(self.at) != len(left):
            return
        self.at[left] = self.until[left]
        self.reached[left] = 0
        if self.plan_audit is not None:
            self.plan_audit.forget(left)
        if self.memory is not None:
            self.memory = Memory(self.memory.mean, self.memory.valid & ~left.to(self.memory.valid.device))

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor], own: Bool[Tensor, " B"] | None = None) -> Float[Tensor, "B A"]:
        """The next action (B, A) in [-1, 1] for each observation, of one moment: `observation.state` (B, S), and
        what else the model perceives, `observation.images.<camera>` (B, H, W, 3) uint8.

        Called every control step, or `watch`. `own` (B,): where it is this agent that acts, everywhere unless given;
        elsewhere nothing is decided, the action is any, and what was decided before is forgotten.
        """
        observation = self.frame_stack.see(observation)
        count = len(next(iter(observation.values())))
        if len(self.at) != count:
            self._open(count)
        due = self.due(count) if own is None else self.due(count) & own
        self.planned_tokens = [None] * count
        if bool(due.any()):
            self.decide(observation, due)
        action = self.actions[torch.arange(count), self.at.clamp(max=self.most - 1)]
        self.at += 1
        if own is not None:
            self._drop(~own)
        return action

    def watch(self, observation: dict[str, Tensor]) -> None:
        """See the moment (as for `act`) of a control step in which somebody else acts everywhere."""
        self.frame_stack.see(observation)
        self._drop(torch.ones_like(self.at, dtype=torch.bool))

    @torch.no_grad()
    def decide(
        self,
        observation: dict[str, Tensor],
        due: Bool[Tensor, " B"] | None = None,
        deadline: float | None = None,
    ) -> Decision:
        """Decide anew in the environments that are `due`, all unless given; the others keep their tokens, and their
        memory. `observation`: of each camera the frames of `vision.lags`, (B, F, H, W, 3), else as for `act`.
        `deadline`: as for `Planner.plan`."""
        count = len(next(iter(observation.values())))
        due = torch.ones(count, dtype=torch.bool) if due is None else due
        if self.heard is not None and LANGUAGE_KEY in observation:
            observation = observation | {LANGUAGE_KEY: recognised(observation[LANGUAGE_KEY], self.heard)}
        if len(self.at) != count:
            self._open(count)
        if self.planner is None:
            tokens, _ = self.model.greedy_token(self.model.encode(observation), self.reached.to(self.model.device))
            whole = followed = tokens.cpu().unsqueeze(0)
            until = torch.full((count,), min(self.most, self.curve.length))
            by_policy = torch.ones_like(due)
        else:
            plan = self.plan = self.planner.plan(observation, self.memory, self.generator, deadline, self.reached)
            whole, by_policy = self._kept(plan, due)
            followed = whole[: self.ahead] if self.noise is None else self._explored(plan, due)
            self.spread = float(plan.spread[0].mean())
            self.spent.imagined += int(plan.imagined[due].sum())
            self.planned_tokens = [whole[0, i] if due[i] else None for i in range(count)]
            until = torch.where(by_policy, min(self.most, self.curve.length), self.most)
            later = self.curve.advance_each(whole, until).to(plan.tokens.device)
            self.memory = Memory(later, ~by_policy.to(later.device)).where(due, self.memory)
            self._note(plan.latent, whole[0], until, due)
        # A mean of bounded tokens, or of control points, can be an ulp out of bounds.
        actions = self.curve.actions(followed, self.most).clamp(-1, 1)
        self.actions = torch.where(due[:, None, None], actions, self.actions)
        self.until = torch.where(due, until, self.until)
        if self.model.shared:  # not all are followed for as long
            for steps in until[due].unique().tolist():
                ends = self.curve.at(followed, steps).clamp(-1, 1)
                self.reached = torch.where((due & (until == steps))[:, None], ends, self.reached)
        self.at[due] = 0
        self.spent.decisions += int(due.sum())
        self.spent.steps += int(until[due].sum())
        self.decision = Decision(whole, self.actions, self.until, by_policy)
        return self.decision

    def _open(self, count: int) -> None:
        """Have nothing decided yet, in `count` environments."""
        self.memory = None
        self.at, self.until = torch.zeros(2, count, dtype=torch.long)
        self.actions = torch.zeros(count, self.most, self.curve.action_size)
        self.reached = torch.zeros(count, self.model.shared)
        if self.plan_audit is not None:
            self.plan_audit.forget(torch.ones(count, dtype=torch.bool))

    def _kept(self, plan: Plan, due: Bool[Tensor, " B"]) -> tuple[Float[Tensor, "T B P"], Bool[Tensor, " B"]]:
        """The plan's sentences, and where they do not keep what plans before promised: there the policy's token is
        first."""
        tokens, broken = plan.tokens.cpu(), torch.zeros_like(due)
        if self.plan_audit is not None:
            broken = self.plan_audit.broken(plan.worth.cpu(), due)
        if bool(broken.any()):
            greedy, _ = self.model.greedy_token(plan.latent, self.reached.to(plan.latent.device))
            tokens = torch.cat([torch.where(broken[:, None], greedy.cpu(), tokens[0]).unsqueeze(0), tokens[1:]])
        return tokens, broken

    def _note(
        self,
        z: Float[Tensor, "B D"],
        token: Float[Tensor, "B P"],
        steps: Int[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> None:
        """Let the account know what was decided; of a token that is left before its end, or followed beyond it, the
        share of its time."""
        if self.plan_audit is None:
            return
        share = steps / self.curve.length
        reward, keep = self.planner.foresee(z, token.to(z.device))
        self.plan_audit.note(reward.cpu() * share, keep.cpu() ** share, steps.float(), due)

    def _explored(self, plan: Plan, due: Bool[Tensor, " B"]) -> Float[Tensor, "T B P"]:
        """An elite of each plan, drawn by its weight, with noise of the plan's own spread; any where not `due`."""
        drawn = torch.multinomial(plan.weights.cpu(), 1, generator=self.generator)[:, 0]
        elite = plan.elites[: self.ahead].cpu()[:, torch.arange(len(drawn)), drawn]
        spread = plan.spread[: self.ahead].cpu()
        noise = torch.stack([self.noise.draw(*each.shape, due=due) for each in spread])
        points = (elite + spread * noise).clamp(-1, 1)
        return self.model.token(points, self.model.before(points, self.reached))

    def state_dict(self) -> dict[str, Tensor]:
        """What the next action depends on, beside the model."""
        saved = {} if self.noise is None else {"noise": self.noise.parts, "noise_pink": self.noise.pink}
        saved |= {f"stack.{name}": t for name, t in self.frame_stack.state_dict().items()}
        if self.actions is None:
            return saved
        saved |= {
            "actions": self.actions,
            "reached": self.reached,
            "at": self.at,
            "until": self.until,
            "spread": torch.tensor(self.spread),
            "counts": torch.tensor(astuple(self.spent)),
        }
        if self.memory is not None:
            saved |= {"memory_mean": self.memory.mean, "memory_valid": self.memory.valid}
        return saved

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.actions, self.memory = saved.get("actions"), None
        if self.noise is not None:
            self.noise.parts, self.noise.pink = saved["noise"], saved["noise_pink"]
        self.frame_stack.load_state_dict(part(saved, "stack."))
        if self.actions is not None:
            self.reached = saved["reached"].clone()
            self.at, self.until, self.spread = saved["at"].clone(), saved["until"].clone(), float(saved["spread"])
            self.spent = Spent(*saved["counts"].tolist())
        if "memory_mean" in saved:
            device = self.model.device
            self.memory = Memory(saved["memory_mean"].to(device), saved["memory_valid"].to(device))
