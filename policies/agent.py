"""The acting agent: maps observations to actions, one token at a time."""

import copy
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.decisions.decision import Decision, Totals
from policies.decisions.trace import Trace
from policies.guidance.vias import Vias
from policies.noise import Noise
from policies.noise import make as own_noise
from policies.text_encoder import WORDS, recognised
from policies.tokens.curves import Curve
from worldmodel.errors import UserError
from worldmodel.guidance import Guidance, Guided, Offsets
from worldmodel.model import WorldModel
from worldmodel.mppi import Plan, WarmStart
from worldmodel.observation import FrameHistory, Observation
from worldmodel.planner import Planner, TDCheck
from worldmodel.senses import LANGUAGE_KEY
from worldmodel.settings import PlannerConfig


class Agent:
    """Acts in B environments: decodes each one's current plan at the control rate, and replans when it is due.

    B may change from one call to the next; all plans are then forgotten. With `wide`, it plans and explores over the
    whole range of actions, rather than as far as the planner's settings say. `trace` gets each plan.
    """

    trace: Trace | None = None

    def __init__(
        self,
        model: WorldModel,
        curve: Curve,
        planner: Planner | None,
        generator: torch.Generator,
        explore: str = "",
        every: int = 0,
        sentences: Tensor | None = None,
        step_discount: float = 0.0,
    ):
        """Execute the mean of the planner's elites or, without a planner, the policy's mode.

        With `explore` ("white", "pink" or "mixed"), execute instead an elite sampled by its weight, plus noise of that
        colour scaled by the plan's own standard deviation. Without it, the policy takes over for a while where plans
        did not deliver the return they promised (`worldmodel.planner.TDCheck`).

        `every`: control steps between decisions; 0: a token's. If shorter, the rest of the token is dropped; if longer,
        the plan's next tokens follow open loop. `sentences` (K, T): vectors of the training sentences, to which those
        met are matched. `step_discount`: per control step. Raises UserError if `every` exceeds a plan's control steps.
        """
        self.model, self.curve, self.planner = model, curve, planner
        self.generator, self.noise = generator, own_noise(explore, generator) if explore else None
        known = curve.length * (planner.config.horizon if planner else 1)
        if every > known and planner:
            raise UserError(f"planner.replan_every={every}: at most {known}, the control steps of a plan")
        self.sentences = sentences
        self._own, self._step_discount = (model, planner), step_discount  # what acts without guidance
        self.most = every or curve.length  # maximum control steps between decisions
        self.ahead = -(-self.most // curve.length)  # maximum tokens executed between decisions
        self.std, self.wide, self.vias = 0.0, False, Vias()
        self.totals = Totals()
        self.planned = torch.zeros(0, dtype=torch.bool)  # (B,): where the planner made the decision in the last `act`
        self.plan_ms: deque[float] = deque(maxlen=1000)  # milliseconds that each of the newest plans took
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
        """Build an agent that does not explore: with a planner of these settings, or by the policy alone."""
        token = model.config.token
        curve = Curve.of_token(token, model.action_size)
        planner = Planner(model, token.discount(step_discount), config, compiled) if planned else None
        known = WORDS.encode(sentences) if sentences else None
        return cls(model, curve, planner, generator, "", config.replan_every, known, step_discount)

    def guide(self, guidances: Sequence[tuple[Guidance, float]], weight: float = 1.0) -> None:
        """Follow these guidances from the next decision on, with `weight` of all (0 to 1); the current plans go on."""
        if not 0 <= weight <= 1:
            raise UserError(f"guidance.weight={weight}: from 0 to 1")
        if wrong := [share for _, share in guidances if not 0 < share < math.inf]:
            raise UserError(f"guidance=[...*{wrong[0]}]: weights above 0")
        self.model, self.planner = self._own
        self.vias.take(guidances, weight)
        if weight and (rewarding := [each for each in guidances if each[0].terms or each[0].head]):
            self.model = Guided(self.model, rewarding, weight, self._step_discount)
            self.planner = self.planner and self.planner.of(self.model, self.model.leash(self.planner.config))
        self.td_check, self.offsets = self._fresh_check(), Offsets(self.model, len(self.at))

    def forget(self) -> None:
        """Drop all plans, decisions and frame stacks; the number of environments may then change."""
        self.plan: Plan | None = None  # the newest plan
        self.decision: Decision | None = None  # the newest decision; the policy may have overruled the plan
        self.vias.clock = self.vias.clock[:0]
        self.frames = FrameHistory(self.model.config.vision.frame_lags)
        self._open(0)

    def _open(self, count: int) -> None:
        """Start with `count` environments and no decision in any of them."""
        self.warm_start: WarmStart | None = None
        self.at, self.until = torch.zeros(2, count, dtype=torch.long)
        self.actions = torch.zeros(count, self.most, self.curve.action_size)
        self.reached = torch.zeros(count, self.model.shared)  # where the current curves end, if tokens are joined
        self.td_check, self.offsets = self._fresh_check(), Offsets(self.model, count)

    def _fresh_check(self) -> TDCheck | None:
        if self.planner is None or not self.planner.config.td_check_steps or self.noise is not None:
            return None
        return TDCheck(self.planner.config.td_check_steps, self.planner.config.return_scale_floor)

    @property
    def steps_per_decision(self) -> float:
        """Mean number of control steps between decisions so far; the maximum, before the first decision."""
        return self.totals.steps / self.totals.decisions if self.totals.decisions else float(self.most)

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the tokens, plans and frames of the environments (B,) whose episode ended."""
        if self.noise is not None:
            self.noise.reset(ended)
        self.frames.reset(ended)
        self.vias.reset(ended)
        self._drop(ended)

    def _drop(self, left: Bool[Tensor, " B"]) -> None:
        """Drop the current token and plan of these environments (B,); a no-op if B changed or nothing was decided."""
        if len(self.at) != len(left):
            return
        self.at[left] = self.until[left]
        self.reached[left] = 0
        self.offsets.reset(left)
        if self.td_check is not None:
            self.td_check.reset(left)
        if self.warm_start is not None:
            self.warm_start = self.warm_start.where(~left, None)

    @torch.no_grad()
    def act(self, observation: Observation, own: Bool[Tensor, " B"] | None = None) -> Float[Tensor, "B A"]:
        """Return the next action (B, A) in [-1, 1] for the current observation of each environment; frames are single.

        Call it at every control step. `own` (B,): where this agent acts, by default everywhere; elsewhere nothing is
        decided, the action is arbitrary, and the plan is forgotten. Raises PlanFault as `Planner.plan`.
        """
        count = len(observation)
        if len(self.at) != count:
            self._open(count)
        observation = self.frames.see(observation)
        due = (self.at >= self.until) & (own is None or own)
        self.planned = due if self.planner is not None else torch.zeros_like(due)
        if bool(due.any()):
            self.decide(observation, due)
        action = self.actions[torch.arange(count), self.at.clamp(max=self.most - 1)]
        self.at += 1
        self.vias.clock = self.vias.now(count) + 1
        if own is not None:
            self._drop(~own)
        return action

    def act_at_random(self, observation: Observation) -> Float[Tensor, "B A"]:
        """Return actions uniform in [-1, 1], and over time of the exploration noise's colour; all plans are dropped.

        Where a token is one action, held for several steps, so are they, and of any size, as plans near a goal are of
        small ones: what is tried is what will be planned.
        """
        if self.noise is None:
            raise ValueError("only an agent that explores acts at random")
        count = len(observation)
        if len(self.at) != count or self.decision is not None:
            self._open(count)
        self.frames.see(observation)
        self.decision, self.planned = None, torch.zeros(count, dtype=torch.bool)
        length = min(self.curve.length, self.most) if self.curve.control_points == 1 else 1
        due = self.at >= self.until
        drawn = torch.erf(self.noise.draw(count, self.curve.action_size, due) / math.sqrt(2))
        if length > 1:
            drawn = drawn * torch.rand(count, 1, generator=self.generator)
        self.actions = torch.where(due[:, None, None], drawn.unsqueeze(1), self.actions)
        self.at, self.until = torch.where(due, 0, self.at) + 1, torch.where(due, length, self.until)
        return self.actions[torch.arange(count), self.at - 1]

    @torch.no_grad()
    def preview(self, observation: Observation) -> Plan:
        """Return the plan that it would make now, without making it. Raises UserError without a planner."""
        if self.planner is None:
            raise UserError("plan: this agent acts by its policy alone (planned=False)")
        other = copy.copy(self)  # the tensors are shared, and only replaced
        if len(self.at) != len(observation):
            other._open(len(observation))
        elif bool((running := other.at < other.until).any()):
            rows = torch.arange(len(running))  # a curve is halfway between the last action and the next
            near = [self.actions[rows, at.clamp(0, self.most - 1)] for at in (self.at - 1, self.at)]
            halfway = torch.stack(near).mean(0)[:, : self.model.shared]
            other.reached = torch.where(running[:, None], halfway, self.reached)
            other.warm_start = self.warm_start and self.warm_start.where(~running, None)
        other.generator = torch.Generator().set_state(self.generator.get_state())
        return other._plan(self.planner, copy.deepcopy(self.frames).see(observation))

    def recognised_in(self, observation: Observation) -> Observation:
        """Replace an instruction by the one of the training that it is closest to."""
        if self.sentences is None:
            return observation
        return observation.with_values({LANGUAGE_KEY: recognised(observation.values[LANGUAGE_KEY], self.sentences)})

    def _plan(self, planner: Planner, observation: Observation, deadline: float | None = None) -> Plan:
        """Plan from where the current curves end, with cameras' frames stacked."""
        seen, own = self.recognised_in(observation), (self.warm_start, self.generator, deadline, self.reached)
        self.offsets.apply()
        pins = self.vias.pins(seen, self.reached, self.curve, planner.config.horizon)
        return planner.plan(seen, *own, wide=self.wide, pins=pins)

    @torch.no_grad()
    def decide(
        self, observation: Observation, due: Bool[Tensor, " B"] | None = None, deadline: float | None = None
    ) -> Decision:
        """Make a new decision in the environments that are `due`, by default all; the others keep their plans.

        `observation`: as for `act`, but with each camera's frames of `vision.frame_lags` stacked, (B, F, H, W, 3).
        `deadline`: as for `Planner.plan`. Raises PlanFault as `Planner.plan`.
        """
        count = len(observation)
        due = torch.ones(count, dtype=torch.bool) if due is None else due
        if len(self.at) != count:
            self._open(count)
        one_token, imagined = min(self.most, self.curve.length), None
        if self.planner is None:
            tokens, _ = self.model.greedy_token(self._encoded(observation), self.reached.to(self.model.device))
            whole = followed = tokens.cpu().unsqueeze(0)
            until, by_policy = torch.full((count,), one_token), torch.ones_like(due)
        else:
            began = time.perf_counter()
            if self.offsets.awaited(due):
                self.offsets.compare(self._encoded(observation), due)
            plan = self._plan(self.planner, observation, deadline)
            self.plan_ms.append(1000 * (time.perf_counter() - began))
            self.plan, self.std = plan, float(plan.std[0].mean())
            self.totals.model_calls += plan.model_calls * int(due.sum())
            whole, by_policy = self._checked(plan, due & ~self.vias.pinned)  # the policy knows of no via-point
            followed = whole[: self.ahead] if self.noise is None else self._explored(plan, self.noise, due)
            until = torch.where(by_policy, one_token, self.most)
            if self.trace is not None:
                self.trace.add(self.model, plan, whole, until, by_policy, due, self.plan_ms[-1])
            later = self.curve.advance_each(whole, until).to(plan.tokens.device)
            self.warm_start = WarmStart(later, ~by_policy.to(later.device)).where(due, self.warm_start)
            if self.td_check is not None:
                share = until / self.curve.length  # of a token is followed
                following, reward, discount = self.planner.imagine(plan.latent, whole[0].to(plan.latent.device))
                imagined = following, reward
                self.td_check.record(reward.cpu() * share, discount.cpu() ** share, until.float(), due)
            self.offsets.foresee(plan.latent, whole[0].to(plan.latent), until == self.curve.length, due)
        actions = self.curve.actions(followed, self.most).clamp(-1, 1)  # a mean can exceed the bounds by an ulp
        self.actions = torch.where(due[:, None, None], actions, self.actions)
        self.until = torch.where(due, until, self.until)
        if self.model.shared:  # environments may follow their tokens for different numbers of steps
            for steps in until[due].unique().tolist():
                ends = self.curve.at(followed, steps).clamp(-1, 1)
                self.reached = torch.where((due & (until == steps))[:, None], ends, self.reached)
        self.at[due] = 0
        self.totals.decisions += int(due.sum())
        self.totals.steps += int(until[due].sum())
        self.decision = Decision(whole, self.actions, self.until, by_policy, imagined)
        return self.decision

    def _encoded(self, observation: Observation) -> Float[Tensor, "B D"]:
        return self.model.encode(self.model.preprocess(self.recognised_in(observation)))

    def _checked(self, plan: Plan, due: Bool[Tensor, " B"]) -> tuple[Float[Tensor, "T B P"], Bool[Tensor, " B"]]:
        """Return the plans, and where (B,) the policy's token stands first, since plans did not keep promises."""
        tokens, failed = plan.tokens.cpu(), torch.zeros_like(due)
        if self.td_check is not None:
            failed = self.td_check.failed(plan.expected_return.cpu(), due)
        if bool(failed.any()):
            greedy, _ = self.model.greedy_token(plan.latent, self.reached.to(plan.latent.device))
            tokens = torch.cat([torch.where(failed[:, None], greedy.cpu(), tokens[0]).unsqueeze(0), tokens[1:]])
        return tokens, failed

    def _explored(self, plan: Plan, noise: Noise, due: Bool[Tensor, " B"]) -> Float[Tensor, "T B P"]:
        """Sample an elite of each plan by weight and add noise of the plan's own deviation; arbitrary if not `due`."""
        drawn = torch.multinomial(plan.weights.cpu(), 1, generator=self.generator)[:, 0]
        elite = plan.elites[: self.ahead].cpu()[:, torch.arange(len(drawn)), drawn]
        std = plan.std[: self.ahead].cpu()
        points = (elite + std * torch.stack([noise.draw(len(drawn), self.curve.size, due) for _ in std])).clamp(-1, 1)
        return self.model.token(points, self.model.before(points, self.reached))

    def state_dict(self) -> dict:
        """Return what the next action of an agent that explores depends on, besides the model and the generator."""
        saved: dict = {"frames": self.frames.state_dict(), "wide": torch.tensor(self.wide)}
        if self.noise is not None:
            saved["noise"] = self.noise.state_dict()
        if len(self.at):
            saved |= {name: getattr(self, name) for name in ("actions", "reached", "at", "until")}
            saved |= {"std": torch.tensor(self.std), "counts": torch.tensor(astuple(self.totals))}
            if self.warm_start is not None:
                saved["memory"] = {"mean": self.warm_start.mean, "valid": self.warm_start.valid}
        return saved

    def load_state_dict(self, saved: dict) -> None:
        """Restore what `state_dict` returned."""
        self._open(0)
        self.wide = bool(saved["wide"])
        self.frames.load_state_dict(saved.get("frames", {}))
        if self.noise is not None:
            self.noise.load_state_dict(saved["noise"])
        if "actions" in saved:
            self.actions, self.reached = saved["actions"], saved["reached"].clone()
            self.at, self.until, self.std = saved["at"].clone(), saved["until"].clone(), float(saved["std"])
            self.offsets = Offsets(self.model, len(self.at))
            self.totals = Totals(*saved["counts"].tolist())
        if "memory" in saved:
            self.warm_start = WarmStart(*(saved["memory"][name].to(self.model.device) for name in ("mean", "valid")))
