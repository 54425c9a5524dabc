"""What an agent does that is stuck: a ladder of rungs, each with a budget of decisions, chosen by which alarm fired.

*identify*: refit each actuator's gain and offset from the last decisions, and plan with them. *back off*: undo the last
actions where they are joint targets, else none, and try again. *tool*: use that of a user's own (`policies.tools`)
which brought most where the world answered as now, if that is worth it; then the body is thought whole again. *ask*:
somebody; without an answer, *stop*: no more actions. Where several guidances may be meant, it first asks which of them
(as Ren et al. 2023, arXiv 2307.01928). A surprise leads to identify, and no further; an arm, which may press against
something, backs off before. An agent that is behind its schedule climbs all, one after another, until it is not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.agent import Agent
from policies.alarms import GAUGES, TINY, Alarms, Notice, Watch
from policies.cases import Case, Rung, Use, Uses
from policies.tools import Tool
from worldmodel.actuators import DEAD, Corrected, identify
from worldmodel.guidance import Guidance
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.planner import Planner

SURPRISE, SCHEDULE = GAUGES
IDENTIFY, BACK_OFF, TOOL, ASK, STOP = "identify", "back off", "tool", "ask", "stop"
BUDGETS = {IDENTIFY: 8, BACK_OFF: 10, TOOL: 10, ASK: 0}
"""Decisions of each rung, in the order of the ladder (of backing off: control steps)."""
UNDO = {"delta": -1.0, "absolute": 1.0, "": 0.0}
"""By what actions stand for (`sim.so101.joints`): the factor by which the last ones, in reverse, lead back."""
CARRIED = BACK_OFF, ASK, STOP  # rungs that a robot carries out itself
GO_ON = "go on"
QUIET = 50  # silent decisions after which it begins again at the first rung
BELIEVED = 0.35  # largest share of the error that gains and offsets may leave to be planned with
ANSWERS = 0.25  # least gain of an actuator with which a body can do something
PATIENCE = 0.25
"""Share of a good episode's decisions for a mended body to get where good ones are, before the next rung."""
WORTH = 0.25  # least share of what is missing that a tool must be expected to gain to be used


class Ladder(Watch):
    """Watches an agent that plans, as `Watch` does, and changes how it plans and acts where an alarm fired.

    The agent's planner is replaced while a rung or a correction holds; environments planned for together think longer
    together. `steps`: what was done, and why.
    """

    def __init__(
        self,
        alarms: Alarms,
        undo: float = 0.0,
        ask: Callable[[str, Sequence[str]], str] | None = lambda question, choices: "",
        first: Callable[[int], float] | None = None,
        tools: Sequence[Tool] = (),
        options: Mapping[str, Guidance] | None = None,
        uses: Uses | None = None,
    ):
        """Climb by these alarms. `ask` gets a question and its choices, and returns one, "" for none in time.

        Without `ask`, a robot asks (`ready`). `options`: the guidances that may be meant, by their sentences.

        `undo`: one of UNDO. `first`: of each episode the decision of its first alarm, instead of `alarms`.
        `tools`: each used once at most before somebody is asked, with the defaults of their parameters, the one first
        that is to gain most by its `uses`, which get those of these episodes.
        """
        super().__init__()
        self.alarms, self.undo, self.ask, self.first, self.tools = alarms, undo, ask, first, tools
        self.options, self.choice, self._followed = dict(options or {}), "", ""
        mean = alarms.bands[SCHEDULE].mean
        self._best, self._half = min(mean), (min(mean) + max(mean)) / 2
        self._start = 1 + next(at for at, value in enumerate(mean) if value <= self._half)
        self._soon = round(PATIENCE * len(mean))
        self.uses, self.steps, self._noted = uses or Uses(), list[Rung](), 0
        self._cases: list[Case] = []
        self._own: tuple[WorldModel, Planner] | None = None
        self._gain = self._offset = torch.zeros(0)

    def begin(self, count: int, bodies: Sequence[object] = ()) -> None:
        """Begin the next episodes, in `count` environments, with bodies that are thought whole."""
        super().begin(count, bodies)
        first = len(self.rows) - count
        self._cases = [Case(first + i, mean=self._best) for i in range(count)]
        self._gain = torch.zeros(0)
        if self._unclear:
            self._ask(0, "what is meant?")

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be answered."""
        return (*(() if self._unclear else (GO_ON,)), *self.options, STOP)

    @property
    def _unclear(self) -> bool:
        return bool(self.options) and not self.choice

    def _ask(self, i: int, question: str) -> None:
        """Ask, and act on the answer if that comes at once."""
        self._cases[i].rung, self._cases[i].question = ASK, question
        if self.ask is not None:
            self._answered(i, self.ask(question, self.choices))

    def _answered(self, i: int, answer: str) -> None:
        case = self._cases[i]
        if answer in self.options or (answer not in ("", STOP) and not self._unclear):
            self._say(i, ASK, f"the answer was: {answer}")
            self.choice = answer if answer in self.options else self.choice
            case.rung = ""
            case.taken.clear()
            case.used.clear()
            self._restart(i)
        else:
            for number in range(len(self._cases)) if self._unclear else (i,):
                self._stop(number, "told to" if answer == STOP else "nobody answered")

    def _prepare(self, agent: Agent) -> None:
        """Let the agent follow what was chosen, and plan for whole bodies if its episodes begin now."""
        if self.choice != self._followed:
            agent.guide([(self.options[self.choice], 1.0)])
            self._own, self._followed, self._gain = None, self.choice, torch.zeros(0)
        if self._own is None:
            assert agent.planner is not None
            self._own = agent.model, agent.planner
        if not len(self._gain):
            shape = len(self._cases), agent.curve.action_size
            self._gain, self._offset = torch.ones(shape), torch.zeros(shape)
            self._set(agent, torch.zeros(shape[0], dtype=torch.bool))

    def act(self, agent: Agent, observation: Observation, own: Bool[Tensor, " B"]) -> Float[Tensor, "B A"]:
        """Return the agent's actions, except where the ladder acts."""
        if agent.planner is None:
            return agent.act(observation, own)
        self._prepare(agent)
        here = torch.tensor([case.rung in (BACK_OFF, STOP) for case in self._cases])
        action = agent.act(observation, own & ~here)
        for i, case in enumerate(self._cases):
            if here[i]:
                case.last = None
                rest = case.sent[-1] if self.undo > 0 and case.sent else 0.0
                action[i] = case.back.pop() if case.back else rest
                case.left -= 1
                if case.rung == BACK_OFF and case.left <= 0:
                    case.rung = ""
                    self._restart(i)
            case.sent.append(action[i].clone())
        return action

    def ready(self, agent: Agent, begins: bool, rests: bool, reply: str = "") -> None:
        """Prepare for a decision, as `Watch` does; the robot itself backs off, asks and stops."""
        asked = bool(self._cases) and self._cases[0].rung == ASK and not begins
        super().ready(agent, begins, rests)
        case = self._cases[0]
        if asked:
            self._answered(0, reply)
        self._prepare(agent)
        if rests:
            case.last = None
        if case.rung == BACK_OFF:  # it has
            case.rung = ""
            self._restart(0)

    def decided(self, agent: Agent) -> Notice:
        """Read what was decided and take the rungs that are due, as `Watch` does."""
        case = self._cases[0]
        notice = super().decided(agent) if case.rung not in (ASK, STOP) else Notice()
        why = "; ".join(f"{step.rung}: {step.why}" for step in self.steps[self._noted :])
        self._noted = len(self.steps)
        if case.rung == ASK:
            return Notice(ASK, case.question, notice.gauges, self.choices)
        return notice._replace(rung=case.rung if case.rung in CARRIED else "", why=why)

    def read(self, agent: Agent, due: Bool[Tensor, " B"]) -> None:
        """Read the gauges, and take the rungs that are due."""
        super().read(agent, due)
        assert agent.plan is not None and agent.decision is not None
        changed = torch.zeros_like(due)
        for i in due.nonzero()[:, 0].tolist():
            case, z, w = self._cases[i], agent.plan.latent[i], agent.decision.tokens[0, i]
            if case.last is not None:
                case.seen.append((*case.last, z))
            case.last = (z, w.to(z.device)) if int(agent.until[i]) == agent.curve.length else None
            case.clock, case.patience = case.clock + self._pace(i), max(0, case.patience - 1)
            changed[i] = self._decide(i)
        if bool(changed.any()):
            self._set(agent, changed)

    def newest(self, number: int) -> str:
        """Return the newest rung in an environment's episode and why, in a line; "" for none."""
        said = [step for step in self.steps if step.episode == self._cases[number].episode]
        return f"{said[-1].rung}: {said[-1].why}" if said else ""

    def _decide(self, i: int) -> bool:
        """Take the next rung in an environment if it is due. Returns whether the planner has to change."""
        case = self._cases[i]
        alarm = self._alarm(i)
        if case.use is not None and len(self._running[i]) - case.use.at >= self._soon:
            self._brought(i, case.use)
        if case.rung == STOP:
            return False
        if case.rung:
            case.left -= 1
            if case.left > 0:
                return False
            if case.rung == IDENTIFY and self._identified(i):
                return True
            case.rung = ""
            return alarm == SCHEDULE and self._climb(i, alarm)
        case.quiet = 0 if alarm else case.quiet + 1
        if case.quiet >= QUIET:
            case.taken.clear()
        if alarm or case.patience:  # what was just fitted to a few decisions is fitted again
            return self._climb(i, alarm or SURPRISE)
        return False

    def _alarm(self, i: int) -> str:
        """Return the alarm of an environment that asks for a rung now, "" for none.

        A surprise does. A schedule does where the agent is behind, and was in the mean of as long as good episodes take
        to get half-way more than half.
        """
        case, now = self._cases[i], dict(zip(GAUGES, self._running[i][-1], strict=True))
        if self.first is not None and not case.taken:
            return SURPRISE if len(self._running[i]) > self.first(case.episode) else ""
        behind = not case.patience and self.alarms.bands[SCHEDULE].over(now[SCHEDULE], case.clock)
        case.mean += ((now[SCHEDULE] if behind else self._best) - case.mean) * self._pace(i) / self._start
        if behind and case.mean > self._half:
            return SCHEDULE
        return SURPRISE if self.alarms.bands[SURPRISE].over(now[SURPRISE], case.clock) else ""

    def _pace(self, i: int) -> float:
        """Return how many decisions of a good episode one takes here: fewer where mended actuators are weak."""
        return float(self._gain[i].abs().clamp(ANSWERS, 1).mean()) if self._cases[i].mended else 1.0

    def _climb(self, i: int, alarm: str) -> bool:
        """Take the next rung. Returns whether the planner has to change."""
        case = self._cases[i]
        best = None
        if alarm == SURPRISE:
            case.rung = BACK_OFF if self.undo and not case.taken else IDENTIFY
        else:
            if case.use is not None:
                self._brought(i, case.use)
            best = self._best_tool(case)
            case.rung = next(name for name in BUDGETS if (best if name == TOOL else name not in case.taken))
        case.left, case.quiet = BUDGETS[case.rung], 0
        fresh = case.rung not in case.taken or case.rung == TOOL
        case.taken += [case.rung] * fresh
        say = {SURPRISE: "the world does not answer as imagined", SCHEDULE: "less reward is imagined than by then"}
        if fresh:
            self._say(i, case.rung, say[alarm])
        if case.rung == IDENTIFY and alarm == SURPRISE and fresh:
            while len(case.seen) > 1:  # until just now the world answered
                case.seen.popleft()
        elif case.rung == BACK_OFF:
            case.back = [self.undo * action for action in list(case.sent)[-case.left :]]
        elif case.rung == TOOL and best:
            tool, hope, situation = best
            did = tool({}, self.bodies[i] if self.bodies else None)
            self._say(i, TOOL, f"{tool.name}: {did} ({hope:.0%} of what is missing expected of it)")
            case.use = Use(tool.name, situation, self._lately(i, 0), len(self._running[i]))
            case.used.append(tool.name)
            self.uses.tried[tool.name] += 1
            case.seen.clear()
            case.mended, case.last = False, None
            self._gain[i], self._offset[i] = 1, 0
            self._restart(i)
            return True
        elif case.rung == ASK:
            self._ask(i, f"episode {case.episode}: {say[alarm]}, and {', '.join(case.taken[:-1])} did not help")
        return False

    def _best_tool(self, case: Case) -> tuple[Tool, float, Float[np.ndarray, " D"]] | None:
        """Return the unused tool of the largest expected gain, of equal ones the least tried, gain and situation."""
        assert self._own is not None
        situation = case.situation(self._own[0])
        offers = [(self.uses.gain(tool.name, situation), tool) for tool in self.tools if tool.name not in case.used]
        gain, best = min(offers, key=lambda offer: (-offer[0], self.uses.trials(offer[1].name)), default=(0.0, None))
        return (best, gain, situation) if best is not None and gain > WORTH else None

    def _lately(self, i: int, since: int) -> float:
        """Return the mean of the schedule over the newest half of the decisions `since` one, of `_soon` at most."""
        rows = self._running[i][since:][-self._soon :]
        return float(np.mean([schedule for _, schedule in rows[len(rows) // 2 :]]))

    def _brought(self, i: int, use: Use) -> None:
        """Note what a tool brought."""
        self._cases[i].use = None
        gain = (use.before - self._lately(i, use.at)) / max(use.before - self._best, TINY)
        if math.isfinite(gain):
            self.uses.add(use.name, use.situation, min(max(gain, -1.0), 1.0))

    def _identified(self, i: int) -> bool:
        """Fit gains and offsets, and return whether they explain what happened; then they hold."""
        case = self._cases[i]
        assert self._own is not None
        if not case.seen:
            return False
        z, w, following = [torch.stack(each) for each in zip(*case.seen, strict=True)]
        gain, offset, left = identify(self._own[0], z, w, following, self._gain[i], self._offset[i])
        change = max(float((gain - self._gain[i]).abs().max()), float((offset - self._offset[i]).abs().max()))
        refined = case.mended and (change < DEAD or left > BELIEVED)  # a small change needs no certainty
        if not refined and (left > BELIEVED or change < DEAD):
            return False
        if refined:
            gain = self._gain[i] + (gain - self._gain[i]).clamp(-DEAD, DEAD)
            offset = self._offset[i] + (offset - self._offset[i]).clamp(-DEAD, DEAD)
        self._gain[i], self._offset[i] = gain, offset
        case.rung = ""
        if refined:
            return True
        values = ", ".join(f"{g:.2f}{b:+.2f}" for g, b in zip(gain.tolist(), offset.tolist(), strict=True))
        self._say(i, IDENTIFY, f"gains and offsets {values} leave {left:.0%} of the error: planned with")
        if bool((gain.abs() < ANSWERS).all()):
            case.taken = [IDENTIFY, BACK_OFF] + [TOOL] * len(case.used)  # which cannot help
        else:
            if not case.mended:
                case.mended = True
                case.patience = round(PATIENCE * len(self.alarms.bands[SCHEDULE].mean) / self._pace(i))
            self._restart(i)
        return True

    def _stop(self, i: int, why: str) -> None:
        self._cases[i].rung = STOP
        self._say(i, STOP, why)

    def _restart(self, i: int) -> None:
        """Let an environment's gauges begin anew, as at an episode's start."""
        self._cases[i].clock, self._cases[i].mean = -1, self._best
        if len(self._state):
            self._state[i] = torch.nan
            self._imagined[i] = torch.nan

    def _say(self, i: int, rung: str, why: str) -> None:
        self.steps.append(Rung(self._cases[i].episode, len(self._running[i]), rung, why))

    def _set(self, agent: Agent, changed: Bool[Tensor, " B"]) -> None:
        """Give the agent the model and the planner that hold now; where `changed`, promises of earlier ones lapse."""
        assert self._own is not None
        model, planner = self._own
        if bool((self._gain != 1).any() | (self._offset != 0).any()):
            model = Corrected(model, self._gain, self._offset)
        if model is not planner.model:  # not compiled, which takes a minute
            planner = Planner(model, planner.discount, planner.config, False, planner.score)
        agent.model, agent.planner = model, planner
        if agent.td_check is not None and len(agent.at):
            agent.td_check.reset(changed)

    def record(self) -> list[dict]:
        """Return the steps as plain data."""
        return [asdict(step) for step in self.steps]
