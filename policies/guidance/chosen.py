"""The guidances that a command's keys name: loaded to act under, and as wishes that can be judged or be a task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policies.agent import Agent
from policies.guidance.storage import GuidanceSpec, load_guidance, read_spec
from policies.settings import GuidanceKeys, Wish
from worldmodel.errors import UserError
from worldmodel.guidance import Guidance
from worldmodel.model import WorldModel
from worldmodel.settings import Term


@dataclass(frozen=True)
class Chosen:
    """Guidances of one checkpoint, each with its weight among them; `weight`: of all beside the agent's own reward."""

    guidances: tuple[tuple[Guidance, float], ...]
    wishes: tuple[Wish, ...]
    weight: float

    @classmethod
    def load(cls, keys: GuidanceKeys, checkpoint: Path, model: WorldModel) -> "Chosen":
        """Load what the keys name for the model of `checkpoint`; nothing is read later. Raises FolderError."""
        loaded = [load_guidance(path, checkpoint, model) for path, _ in keys.each]
        guidances = tuple((guidance, share) for (guidance, _), (_, share) in zip(loaded, keys.each, strict=True))
        return cls(guidances, *_wishes(keys, [spec for _, spec in loaded]))

    @property
    def sentence(self) -> str:
        """What they ask for, in words."""
        return "; ".join(wish.sentence for wish in self.wishes)

    def only(self, numbers: Sequence[int]) -> "Chosen":
        """Return some of them."""
        return Chosen(
            tuple(self.guidances[at] for at in numbers), tuple(self.wishes[at] for at in numbers), self.weight
        )

    def guide(self, agent: Agent) -> Agent:
        """Guide an agent by them, and return it."""
        agent.guide(self.guidances, self.weight)
        return agent


def wishes_of(keys: GuidanceKeys, bare: bool = False) -> tuple[Wish, ...]:
    """Return what the guidances ask for, without those that have no terms if `bare`. Raises FolderError, UserError."""
    specs = [read_spec(path) for path, _ in keys.each]
    lacking = [path for (path, _), spec in zip(keys.each, specs, strict=True) if not spec.terms]
    if lacking and not bare:
        raise UserError(f"guidance={lacking[0]}: it has no terms over quantities, so it cannot be a task's reward")
    wishes, weight = _wishes(keys, specs)
    return tuple(replace(wish, weight=weight * wish.weight) for wish in wishes if wish.terms)


def _wishes(keys: GuidanceKeys, specs: Sequence[GuidanceSpec]) -> tuple[tuple[Wish, ...], float]:
    """Return wishes whose weights add up to 1, and the weight of all of them beside the agent's own reward."""
    total = sum(share for _, share in keys.each)
    wishes = [
        Wish(spec.sentence, _terms(spec), share / total) for spec, (_, share) in zip(specs, keys.each, strict=True)
    ]
    said = sum(wish.weight * spec.weight for wish, spec in zip(wishes, specs, strict=True))
    return tuple(wishes), min(said, 1.0) if keys.weight is None else keys.weight


def _terms(spec: GuidanceSpec) -> tuple[Term, ...]:
    seen = {name: reading.high - reading.low for name, reading in spec.probes.items()}
    return tuple(replace(term, spread=seen[term.quantity]) for term in spec.terms)
