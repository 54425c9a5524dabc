"""What an evaluation reports of named quantities: their values, and how well a guidance is fulfilled by them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from envs.benchmark.table import mean_interval
from policies.glyphs.strips import Gauge
from policies.guidance.judge import Judge
from policies.settings import Wish
from policies.training.rollouts import Rollout
from worldmodel.settings import Term
from worldmodel.strict import ConfigError


@dataclass(frozen=True)
class Report:
    """The wishes to judge, and the quantities asked for by name."""

    wishes: tuple[Wish, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities needed: those of the wishes, in their order, and those asked for."""
        wished = [term.quantity for wish in self.wishes for term in wish.terms]
        return tuple(dict.fromkeys([*wished, *self.asked]))

    def check(self, units: Mapping[str, str]) -> None:
        """Raise ConfigError for a quantity that the environment, whose units these are, does not have."""
        for name in self.names:
            if name not in units:
                key = f"quantities=[{','.join(self.asked)}]" if name in self.asked else "guidance"
                raise ConfigError(f"{key}: {name}: no quantity of this task; it has {', '.join(units) or 'none'}")

    def gauges(self, units: Mapping[str, str]) -> list[Gauge]:
        """Return how a film draws the quantities: those of the wishes with their intervals, then those asked for."""
        terms = [term for wish in self.wishes for term in wish.terms]
        rest = [Term(name) for name in self.asked if name not in [term.quantity for term in terms]]
        return [Gauge(each.quantity, units[each.quantity], each.low, each.high) for each in [*terms, *rest]]

    @property
    def sentence(self) -> str:
        """What the wishes say; empty without any."""
        return "; ".join(wish.sentence for wish in self.wishes)

    def fulfilled(self, planned: Rollout, alone: Rollout) -> dict:
        """Return how well the wishes were fulfilled with the planner and by the policy alone; empty without any."""
        wishes = [wish for wish in self.wishes if wish.terms]
        if not wishes:
            return {}
        judge, found = Judge(wishes, self.names), {}
        each: list[dict] = [{"sentence": wish.sentence} for wish in wishes]
        for who, played in (("", planned), ("policy_", alone)):
            for what, of in (("guidance_satisfied", judge.satisfied), ("guidance_return_mean", judge.returns)):
                found[f"{who}{what}"], by_itself = of(played.quantities)
                for own, value in zip(each, by_itself, strict=True):
                    own[f"{who}{what.removeprefix('guidance_')}"] = round(value, 4)
        return {name: round(value, 4) for name, value in found.items()} | {"guidances": each}

    def values(self, played: Rollout, units: Mapping[str, str]) -> dict | None:
        """Return unit, means and last values in each episode of the quantities asked for; None without any."""
        found = {}
        for name in self.asked:
            of = [episode[:, self.names.index(name)] for episode in played.quantities]
            numbers = {"mean": map(np.mean, of), "last": (values[-1] for values in of)}
            rounded = {what: [round(float(value), 4) for value in values] for what, values in numbers.items()}
            found[name] = {"unit": units.get(name, ""), **rounded}
        return found or None


NOTHING = Report()


def interval(played: Rollout) -> list[float] | None:
    """Return the 95 % bootstrap interval of the mean return, or None for a single episode."""
    found = mean_interval(played.returns)
    return None if np.isnan(found.low) else rounded((found.low, found.high))


def rounded(values) -> list[float]:
    """Return numbers as plain ones with three decimals."""
    return [round(float(value), 3) for value in values]
