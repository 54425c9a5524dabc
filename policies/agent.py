"""The acting agent: maps observations to actions, one token at a time."""

from collections.abc import Sequence
from dataclasses import astuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.decision import Decision, Spent
from policies.frame_stack import FrameStack
from policies.observations import check_observation
from policies.storage.folders import part
from policies.tokens.curves import Curve
from policies.training.noise import Noise
from policies.words import WORDS, recognised
from worldmodel.leash import Leash, Step
from worldmodel.mistakes import Mistake
from worldmodel.model import WorldModel
from worldmodel.plan_audit import PlanAudit
from worldmodel.planner import Memory, Plan, Planner
from worldmodel.senses import LANGUAGE_KEY
from worldmodel.settings import PlannerConfig


class Agent:
    """Acts in B environments: decodes each one's current plan at the control rate, and replans when it is due.

    B may change from one call to the next; all plans are then forgotten.
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
        """Execute the mean of the planner's elites or, without a planner, the policy's mode.

        With `explore` ("white", "pink" or "mixed"), execute instead an elite sampled by its weight, plus noise of that
        colour scaled by the plan's own standard deviation. Without it, the policy takes over for a while where plans
        did not deliver the return they promised (`worldmodel.plan_audit`).

        `every`: control steps between decisions; 0: the length of a token. If shorter than a token, the rest of the
        token is dropped; if longer, the plan's next tokens are executed open loop, as far as there are any (the policy
        alone yields one token). `heard` (K, T): the vectors of the training sentences, to which those heard when acting
        are matched. Raises ValueError if, with a planner, `every` exceeds the control steps of a plan.
        """
        self.model, self.curve, self.planner = model, curve, planner
        self.generator, self.noise = generator, Noise(explore, generator) if explore else None
        known = curve.length * (planner.config.horizon if planner else 1)
        if every > known and planner:
            raise Mistake(f"planner.replan_every={every}: at most {known}, the control steps of a plan")
        self.heard = heard
        self.most = every or curve.length  # maximum control steps between decisions
        self.ahead = -(-self.most // curve.length)  # maximum tokens executed between decisions
        self.spread = 0.0
        self.spent = Spent()
        self.planned_tokens: list[Tensor | None] = []  # (P,) where the planner chose one in the last `act`
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
        """Build an agent that does not explore: with a planner of these settings, or policy alone if not `planned`.

        `step_discount`: the discount per control step. `sentences`: the sentences heard in training.
        """
        token = model.config.token
        curve = Curve.of_token(token, model.action_size)
        planner = Planner(model, token.discount(step_discount), config, compiled) if planned else None
        return cls(model, curve, planner, generator, every=config.replan_every, heard=WORDS.known(sentences))

    def forget(self) -> None:
        """Drop all plans, decisions and frame stacks; the number of environments may then change."""
        self.plan: Plan | None = None  # the newest plan
        self.decision: Decision | None = None  # the newest decision; the policy may have overruled the plan
        self.frame_stack = FrameStack(self.model.config.vision.lags)
        self.plan_audit: PlanAudit | None = None
        if self.planner is not None and self.planner.config.patience and self.noise is None:
            self.plan_audit = PlanAudit(self.planner.config.patience, self.planner.config.indifference)
        self.leash: Leash | None = None
        if self.planner is not None and self.planner.config.leash:
            config = self.planner.config
            near = config.horizon * self.model.points * config.min_spread**2
            self.leash = Leash(config.leash_window, near)
        self._open(0)

    def _open(self, count: int) -> None:
        """Start with `count` environments and no decision in any of them."""
        self.memory: Memory | None = None
        self.at, self.until = torch.zeros(2, count, dtype=torch.long)
        self.actions = torch.zeros(count, self.most, self.curve.action_size)
        self.reached = torch.zeros(count, self.model.shared)  # where the current curves end, if tokens are joined
        if self.plan_audit is not None:
            self.plan_audit.forget(torch.ones(count, dtype=torch.bool))

    @property
    def steps_per_decision(self) -> float:
        """Mean number of control steps between decisions so far; the maximum, before the first decision."""
        return self.spent.steps / self.spent.decisions if self.spent.decisions else float(self.most)

    def due(self, count: int) -> Bool[Tensor, " B"]:
        """Return which of `count` environments will make a new decision in the next `act`."""
        return self.at >= self.until if len(self.at) == count else torch.ones(count, dtype=torch.bool)

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the tokens, plans and frames of the environments (B,) whose episode ended."""
        if self.noise is not None:
            self.noise.reset(ended)
        self.frame_stack.forget(ended)
        self._drop(ended)

    def _drop(self, left: Bool[Tensor, " B"]) -> None:
        """Drop the current token and plan of these environments (B,); a no-op if B changed or nothing was decided."""
        if len(self.at) != len(left):
            return
        self.at[left] = self.until[left]
        self.reached[left] = 0
        if self.plan_audit is not None:
            self.plan_audit.forget(left)
        if self.leash is not None:
            self.leash.forget(left)
        if self.memory is not None:
            self.memory = Memory(self.memory.mean, self.memory.valid & ~left.to(self.memory.valid.device))

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor], own: Bool[Tensor, " B"] | None = None) -> Float[Tensor, "B A"]:
        """Return the next action (B, A) in [-1, 1] for the current observation of each environment.

        `observation`: the senses that the model perceives: `observation.state` (B, S),
        `observation.images.<camera>` (B, H, W, 3) uint8, `observation.language` (B, T).

        Call this or `watch` at every control step. `own` (B,): the environments in which this agent acts, by default
        all; elsewhere nothing is decided, the returned action is arbitrary, and the current plan is forgotten. Raises
        PlanFault as `Planner.plan`, ValueError as `check_observation`.
        """
        count = check_observation(observation, self.model.senses)
        observation = self.frame_stack.see(observation)
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
        """Observe (as in `act`) a control step in which somebody else acts in every environment; drop all plans."""
        self.frame_stack.see(observation)
        self._drop(torch.ones_like(self.at, dtype=torch.bool))

    @torch.no_grad()
    def decide(
        self,
        observation: dict[str, Tensor],
        due: Bool[Tensor, " B"] | None = None,
        deadline: float | None = None,
    ) -> Decision:
        """Make a new decision in the environments that are `due`, by default all; the others keep their plans.

        `observation`: as for `act`, but with the frames of `vision.lags` stacked for each camera, (B, F, H, W, 3).
        `deadline`: as for `Planner.plan`. Raises PlanFault as `Planner.plan`.
        """
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
            whole, broken = self._kept(plan, due)
            followed = whole[: self.ahead] if self.noise is None else self._explored(plan, self.noise, due)
            by_policy = broken
            if self.leash is not None:
                followed, by_policy = self._leashed(self.leash, plan, followed, broken, due)
                whole = torch.cat([followed[:1], whole[1:]]) if self.noise is None else whole
            self.spread = float(plan.spread[0].mean())
            self.spent.imagined += int(plan.imagined[due].sum())
            self.planned_tokens = [whole[0, i] if due[i] else None for i in range(count)]
            until = torch.where(by_policy, min(self.most, self.curve.length), self.most)
            later = self.curve.advance_each(whole, until).to(plan.tokens.device)
            self.memory = Memory(later, ~broken.to(later.device)).where(due, self.memory)
            self._note(plan.latent, whole[0], until, due)
        # The mean of bounded tokens, or of control points, can exceed the bounds by an ulp.
        actions = self.curve.actions(followed, self.most).clamp(-1, 1)
        self.actions = torch.where(due[:, None, None], actions, self.actions)
        self.until = torch.where(due, until, self.until)
        if self.model.shared:  # environments may follow their tokens for different numbers of steps
            for steps in until[due].unique().tolist():
                ends = self.curve.at(followed, steps).clamp(-1, 1)
                self.reached = torch.where((due & (until == steps))[:, None], ends, self.reached)
        self.at[due] = 0
        self.spent.decisions += int(due.sum())
        self.spent.steps += int(until[due].sum())
        self.decision = Decision(whole, self.actions, self.until, by_policy)
        return self.decision

    def _kept(self, plan: Plan, due: Bool[Tensor, " B"]) -> tuple[Float[Tensor, "T B P"], Bool[Tensor, " B"]]:
        """Return the plans, and where (B,) they are overruled since earlier ones did not deliver what they promised.

        In those environments the first token is the policy's.
        """
        tokens, broken = plan.tokens.cpu(), torch.zeros_like(due)
        if self.plan_audit is not None:
            broken = self.plan_audit.broken(plan.worth.cpu(), due)
        if bool(broken.any()):
            greedy, _ = self.model.greedy_token(plan.latent, self.reached.to(plan.latent.device))
            tokens = torch.cat([torch.where(broken[:, None], greedy.cpu(), tokens[0]).unsqueeze(0), tokens[1:]])
        return tokens, broken

    def _leashed(
        self,
        leash: Leash,
        plan: Plan,
        followed: Float[Tensor, "K B P"],
        broken: Bool[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, "K B P"], Bool[Tensor, " B"]]:
        """Return the tokens to follow, and where (B,) the first is the policy's; keep account of promised gains.

        Where the policy decides while exploring, the noise stays: the token's deviation from the plan's own.
        """
        planner, device = self.planner, plan.latent.device
        assert planner is not None
        whole = torch.cat([followed, plan.tokens[len(followed) :].cpu()])
        own, other = planner.judge(plan.latent, plan.mode, whole.to(device))
        steps = self.until.float()
        leash.observe(own.mean(0).cpu(), steps, due)
        by_policy = broken
        if planner.config.leash == "anchor":
            planner.anchor = leash.anchor.to(device)
        else:
            better = own, other
            if self.noise is not None:  # the plan decides by what it promises without the noise
                better = planner.judge(plan.latent, plan.mode, plan.tokens)
            by_policy = broken | ((better[1] - better[0]).amin(0).cpu() <= leash.margin)
            mode = plan.mode[0].cpu()
            instead = mode if self.noise is None else (mode + followed[0] - plan.tokens[0].cpu()).clamp(-1, 1)
            instead = self.model.token(instead, self.model.starts(followed[0]))
            followed = torch.cat([torch.where(by_policy[:, None], instead, followed[0]).unsqueeze(0), followed[1:]])
        lasting = torch.where(by_policy, min(self.most, self.curve.length), self.most).float()
        share = lasting / self.curve.length
        reward, keep = planner.foresee(plan.latent, followed[0].to(device))
        reward, whole_keep = reward.cpu() * share, keep.cpu()
        keep = whole_keep**share
        lasts = (1 - whole_keep ** len(whole)) / (1 - keep).clamp(min=1e-6)
        far = (whole - plan.mode.cpu()).square().sum((0, 2))
        promise = (other - own).mean(0).cpu()
        ones = torch.ones_like(far)
        leash.note(Step(own.mean(0).cpu(), reward, keep, promise, lasts, far, ones, (~by_policy).float()), due)
        return followed, by_policy

    def _note(
        self,
        z: Float[Tensor, "B D"],
        token: Float[Tensor, "B P"],
        steps: Int[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> None:
        """Tell the plan audit what was decided, from latents `z`.

        The token's imagined reward and its discount times the probability of continuing are scaled to the `steps` that
        it is followed for, which may be fewer or more than its length.
        """
        if self.plan_audit is None or self.planner is None:
            return
        share = steps / self.curve.length
        reward, keep = self.planner.foresee(z, token.to(z.device))
        self.plan_audit.note(reward.cpu() * share, keep.cpu() ** share, steps.float(), due)

    def _explored(self, plan: Plan, noise: Noise, due: Bool[Tensor, " B"]) -> Float[Tensor, "T B P"]:
        """Sample an elite of each plan by weight and add noise of the plan's own spread; arbitrary where not `due`."""
        drawn = torch.multinomial(plan.weights.cpu(), 1, generator=self.generator)[:, 0]
        elite = plan.elites[: self.ahead].cpu()[:, torch.arange(len(drawn)), drawn]
        spread = plan.spread[: self.ahead].cpu()
        swing = spread * torch.stack([noise.draw(*each.shape, due=due) for each in spread])
        points = (elite + swing).clamp(-1, 1)
        return self.model.token(points, self.model.before(points, self.reached))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the next action depends on besides the model and the generator.

        The plan audit, which only agents that do not explore have, is not included.
        """
        saved = {} if self.noise is None else {"noise": self.noise.parts, "noise_pink": self.noise.pink}
        saved |= {f"stack.{name}": t for name, t in self.frame_stack.state_dict().items()}
        if not len(self.at):
            return saved
        saved |= {
            "actions": self.actions,
            "reached": self.reached,
            "at": self.at,
            "until": self.until,
            "spread": torch.tensor(self.spread),
            "counts": torch.tensor(astuple(self.spent)),
        }
        if self.leash is not None:
            saved["leash"] = self.leash.state()
        if self.memory is not None:
            saved |= {"memory_mean": self.memory.mean, "memory_valid": self.memory.valid}
        return saved

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._open(0)
        if self.noise is not None:
            self.noise.parts, self.noise.pink = saved["noise"], saved["noise_pink"]
        self.frame_stack.load_state_dict(part(saved, "stack."))
        if "actions" in saved:
            self.actions, self.reached = saved["actions"], saved["reached"].clone()
            self.at, self.until, self.spread = saved["at"].clone(), saved["until"].clone(), float(saved["spread"])
            self.spent = Spent(*saved["counts"].tolist())
        if "leash" in saved and self.leash is not None and self.planner is not None:
            self.leash.load(saved["leash"])
            if self.planner.config.leash == "anchor":
                self.planner.anchor = self.leash.anchor.to(self.model.device)
        if "memory_mean" in saved:
            device = self.model.device
            self.memory = Memory(saved["memory_mean"].to(device), saved["memory_valid"].to(device))
