"""What an agent does that is stuck: a ladder of rungs, each with a budget of decisions, chosen by which alarm fired.

*identify*: refit each actuator's gain and offset from the last decisions, and plan with them. *think*: search longer.
*otherwise*: what it tried in vain costs return for a while. *back off*: undo the last actions where they are joint
targets, else none. *tool*: use a user's own (`policies.tools`). *ask*: somebody; without an answer, *stop*: no more
actions. A surprise leads to identify, and no further. An agent that is behind its schedule climbs all others, one after
another, until it is not.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.agent import Agent
from policies.alarms import GAUGES, WINDOW, Alarms, Watch
from policies.tools import Tool
from worldmodel.actuators import DEAD, Corrected, identify
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.planner import Planner, Score

SURPRISE, SCHEDULE = GAUGES
IDENTIFY, THINK, OTHERWISE, BACK_OFF, TOOL, ASK = "identify", "think", "otherwise", "back off", "tool", "ask"
STOP = "stop"
BUDGETS = {THINK: 10, IDENTIFY: 8, OTHERWISE: 20, BACK_OFF: 10, TOOL: 10, ASK: 0}
"""Decisions of each rung, in the order of the ladder (of backing off: control steps)."""
QUIET = 50
"""Silent decisions after which it begins again at the first rung."""
BELIEVED = 0.35
"""Largest share of the error that gains and offsets may leave to be planned with."""
PATIENCE = 0.25
"""Share of a good episode's decisions for a mended body to get where good ones are, before the next rung."""
LONGER = {"samples": 4, "iterations": 2}
"""Factors of the search while thinking."""
NEAR, COST = 0.3, 1.0
"""Distance (root mean square) of a token within the family tried in vain, and its cost there, in rewards."""


@dataclass(frozen=True)
class Rung:
    """A step taken in an episode at a decision, and why, in one line."""

    episode: int
    decision: int
    rung: str
    why: str


@dataclass
class _Case:
    """How one environment stands.

    `rung`: where it is, "" for nowhere; `left`: decisions left there; `taken`: rungs before; `quiet`: decisions without
    an alarm. `clock`: at which decision of a good episode it should be by now; `mean`: its schedule of late.
    `patience`: decisions left to get where good ones are, after it was first `mended`. `seen`: its newest transitions
    (z, w, z'), `last` the first two of the next. `sent`: its newest actions; `back`: those that undo them.
    """

    episode: int
    rung: str = ""
    left: int = 0
    taken: list[str] = field(default_factory=list)
    quiet: int = 0
    patience: int = 0
    mended: bool = False
    mean: float = 0.0
    clock: int = -1
    last: tuple[Tensor, Tensor] | None = None
    seen: deque[tuple[Tensor, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=20))
    sent: deque[Tensor] = field(default_factory=lambda: deque(maxlen=60))
    back: list[Tensor] = field(default_factory=list)


class Ladder(Watch):
    """Watches an agent that plans, as `Watch` does, and changes how it plans and acts where an alarm fired.

    The agent's planner is replaced while a rung or a correction holds; environments planned for together think longer
    together. `steps`: what was done, and why.
    """

    def __init__(
        self,
        alarms: Alarms,
        undo: float = 0.0,
        ask: Callable[[str], str] = lambda question: "",
        first: Callable[[int], float] | None = None,
        tools: Sequence[Tool] = (),
    ):
        """Climb by these alarms. `ask` gets a question and returns the answer, "" for none in time.

        `undo`: the factor by which the last actions, in reverse, lead back: 1 for absolute joint targets, -1 for
        relative ones, 0 for others. `first`: of each episode the decision of its first alarm, instead of `alarms`.
        `tools`: used in this order, each once before somebody is asked, with the defaults of their parameters.
        """
        super().__init__()
        self.alarms, self.undo, self.ask, self.first, self.tools = alarms, undo, ask, first, tools
        mean = alarms.bands[SCHEDULE].mean
        self._best, self._half = min(mean), (min(mean) + max(mean)) / 2
        self._start = 1 + next(at for at, value in enumerate(mean) if value <= self._half)
        self.steps: list[Rung] = []
        self._cases: list[_Case] = []
        self._own: tuple[WorldModel, Planner] | None = None
        self._gain = self._offset = self._tabu = self._barred = torch.zeros(0)

    def begin(self, count: int) -> None:
        """Begin the next episodes, in `count` environments, with bodies that are thought whole."""
        super().begin(count)
        first = len(self.rows) - count
        self._cases = [_Case(first + i, mean=self._best) for i in range(count)]
        self._gain = torch.zeros(0)

    def act(self, agent: Agent, observation: Observation, own: Bool[Tensor, " B"]) -> Float[Tensor, "B A"]:
        """Return the agent's actions, except where the ladder acts."""
        if agent.planner is None:
            return agent.act(observation, own)
        if self._own is None:
            self._own = agent.model, agent.planner
        if not len(self._gain):
            shape = len(self._cases), agent.curve.action_size
            self._gain, self._offset = torch.ones(shape), torch.zeros(shape)
            self._tabu, self._barred = torch.zeros(shape[0], agent.model.points), torch.zeros(shape[0])
            self._set(agent, torch.zeros(shape[0], dtype=torch.bool))
        here = torch.tensor([case.rung in (BACK_OFF, STOP) for case in self._cases])
        action = agent.act(observation, own & ~here)
        for i, case in enumerate(self._cases):
            if here[i]:
                case.last = None
                action[i] = case.back.pop() if case.back else 0.0
                if case.rung == BACK_OFF:
                    self._backed(i)
            case.sent.append(action[i].clone())
        return action

    def look(self, agent: Agent, running: Bool[np.ndarray, " B"], reward: Float[Tensor, " B"] | None = None) -> None:
        """Read the gauges, and take the rungs that are due."""
        counts = [len(rows) for rows in self._running]
        super().look(agent, running, reward)
        changed = torch.zeros(len(counts), dtype=torch.bool)
        for i, (rows, count) in enumerate(zip(self._running, counts, strict=True)):
            if len(rows) > count and agent.plan is not None and agent.decision is not None:
                case, z, w = self._cases[i], agent.plan.latent[i], agent.decision.tokens[0, i]
                if case.last is not None:
                    case.seen.append((*case.last, z))
                case.last = (z, w.to(z.device)) if int(agent.until[i]) == agent.curve.length else None
                case.clock, case.patience = case.clock + 1, max(0, case.patience - 1)
                changed[i] = self._decide(i)
        if bool(changed.any()):
            self._set(agent, changed)

    def _decide(self, i: int) -> bool:
        """Take the next rung in an environment if it is due. Returns whether the planner has to change."""
        case = self._cases[i]
        alarm = self._alarm(i)
        if case.rung == STOP:
            return False
        if case.rung:
            case.left -= 1
            if case.left > 0:
                return False
            if case.rung == IDENTIFY and self._identified(i):
                return True
            changed, case.rung, self._barred[i] = case.rung in (THINK, OTHERWISE), "", 0.0
            return (alarm == SCHEDULE and self._climb(i, alarm)) | changed
        case.quiet = 0 if alarm else case.quiet + 1
        if case.quiet >= QUIET:
            case.taken.clear()
        return bool(alarm) and self._climb(i, alarm)

    def _alarm(self, i: int) -> str:
        """Return the alarm of an environment that asks for a rung now, "" for none.

        A surprise does. A schedule does where its mean over as long as good episodes take to get half-way is not
        half-way.
        """
        case, now = self._cases[i], dict(zip(GAUGES, self._running[i][-1], strict=True))
        if self.first is not None and not case.taken:
            return SURPRISE if len(self._running[i]) > self.first(case.episode) else ""
        case.mean = self._best if case.patience else case.mean + (now[SCHEDULE] - case.mean) / self._start
        if case.mean > self._half and self.alarms.bands[SCHEDULE].over(now[SCHEDULE], case.clock):
            return SCHEDULE
        return SURPRISE if self.alarms.bands[SURPRISE].over(now[SURPRISE], case.clock) else ""

    def _climb(self, i: int, alarm: str) -> bool:
        """Take the next rung. Returns whether the planner has to change."""
        case = self._cases[i]
        if alarm == SURPRISE:
            case.rung = IDENTIFY
        else:
            spent = {name for name in case.taken if name != TOOL or case.taken.count(TOOL) >= len(self.tools)}
            case.rung = next(name for name in BUDGETS if name not in spent and (name != TOOL or self.tools))
        case.left, case.quiet = BUDGETS[case.rung], 0
        fresh = case.rung not in case.taken or case.rung == TOOL
        case.taken += [case.rung] * fresh
        say = {SURPRISE: "the world does not answer as imagined", SCHEDULE: "less reward is imagined than by then"}
        if fresh:
            self._say(i, case.rung, say[alarm])
        if case.rung == IDENTIFY:
            while len(case.seen) > 1 and not case.mended:  # before the alarm it was whole
                case.seen.popleft()
        elif case.rung == OTHERWISE and case.seen:
            self._tabu[i] = torch.stack([w for _, w, _ in list(case.seen)[-WINDOW:]]).mean(0).cpu()
            self._barred[i] = 1.0
        elif case.rung == BACK_OFF:
            last = list(case.sent)[-case.left :]
            case.back = [self.undo * action for action in last]
        elif case.rung == TOOL:
            tool = self.tools[case.taken.count(TOOL) - 1]
            self._say(i, TOOL, f"{tool.name}: {tool({})}")
            self._restart(i)
        elif case.rung == ASK:
            answer = self.ask(f"episode {case.episode}: {say[alarm]}, and {', '.join(case.taken[:-1])} did not help")
            if answer and answer != STOP:
                self._say(i, ASK, f"the answer was: {answer}")
                case.rung = ""
                case.taken.clear()
                self._restart(i)
            else:
                self._stop(i, "told to" if answer else "nobody answered")
        return case.rung in (THINK, OTHERWISE)

    def _identified(self, i: int) -> bool:
        """Fit gains and offsets, and return whether they explain what happened; then they hold."""
        case = self._cases[i]
        assert self._own is not None
        if not case.seen:
            return False
        z, w, following = [torch.stack(each) for each in zip(*case.seen, strict=True)]
        gain, offset, left = identify(self._own[0], z, w, following, self._gain[i], self._offset[i])
        values = ", ".join(f"{g:.2f}{b:+.2f}" for g, b in zip(gain.tolist(), offset.tolist(), strict=True))
        changed = (gain - self._gain[i]).abs().max() > DEAD or (offset - self._offset[i]).abs().max() > DEAD
        if left > BELIEVED or not changed:
            return False
        self._gain[i], self._offset[i] = gain, offset
        self._say(i, IDENTIFY, f"gains and offsets {values} leave {left:.0%} of the error: planned with")
        if not case.mended and bool((gain.abs() >= DEAD).any()):
            case.patience = round(PATIENCE * len(self.alarms.bands[SCHEDULE].mean))
        case.rung, case.mended = "", True
        self._restart(i)
        return True

    def _backed(self, i: int) -> None:
        """Count a control step of backing off."""
        case = self._cases[i]
        case.left -= 1
        if case.left <= 0:
            case.rung = ""
            self._restart(i)

    def _stop(self, i: int, why: str) -> None:
        self._cases[i].rung = STOP
        self._say(i, STOP, why)

    def _restart(self, i: int) -> None:
        """Let an environment's gauges begin anew, as at an episode's start."""
        self._cases[i].clock = -1
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
        config, score = planner.config, planner.score
        if any(case.rung == THINK for case in self._cases):
            config = replace(config, **{name: factor * getattr(config, name) for name, factor in LONGER.items()})
        if bool(self._barred.any()):
            score = barring(self._tabu, self._barred, score)
        agent.model, agent.planner = model, planner
        if (model, config, score) != (planner.model, planner.config, planner.score):
            agent.planner = Planner(model, planner.discount, config, planner.compiled, score)
        if agent.td_check is not None and len(agent.at):
            agent.td_check.reset(changed)

    def told(self) -> list[dict]:
        """Return the steps as plain data."""
        return [asdict(step) for step in self.steps]


def barring(tabu: Float[Tensor, "B P"], barred: Float[Tensor, " B"], score: Score | None = None) -> Score:
    """Return a score that costs COST at the tokens `tabu` and fades within NEAR of them, where `barred` is 1."""

    def cost(z: Tensor, w: Tensor, following: Tensor) -> Tensor:
        times = len(w) // len(tabu)
        centre, weight = (x.to(w.device).repeat_interleave(times, 0) for x in (tabu, barred))
        found = -COST * weight * torch.exp(-(w - centre).square().mean(-1) / NEAR**2)
        return found if score is None else found + score(z, w, following)

    return cost
