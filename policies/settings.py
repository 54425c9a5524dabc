"""Settings of a training run and of a codec. No torch is imported here: commands read this module to print help."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.settings import Term
from worldmodel.strict import check, check_ranges, ranged

EXPERT = "expert_action"
"""The key of an expert's next action in an environment's `info`, and of the request for it in reset options."""
SUCCESS = "is_success"  # the key, in an environment's `info`, of whether the task is done
FAULT = "environment_fault"
"""The key, in an environment's `info`, of the exception that ended an episode or kept it from beginning."""
QUANTITIES = "quantities"
"""The key of the named quantities (Q,) in an environment's `info`, and of their units by name in its `metadata`."""


@dataclass(frozen=True)
class ReplayConfig:
    """Control steps that the replay keeps, with cameras at most `frames` (12 kB at 64 x 64). `sampler`: by name."""

    capacity: int = ranged(1_000_000, low=1, high=10**9)
    frames: int = ranged(100_000, low=1, high=10**9)
    sampler: str = "uniform"

    def __post_init__(self):
        check_ranges("replay.", self)
        registry.check("sampler", self.sampler, "replay.sampler")

    def room(self, cameras: bool) -> int:
        """Return how many steps are kept, with or without cameras."""
        return min(self.capacity, self.frames) if cameras else self.capacity


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation in training, every `every` steps (0: at the end), which a mean return of `stop_at_return` ends."""

    every: int = ranged(50_000, low=0)
    episodes: int = ranged(10, low=1, high=10_000)
    seed: int = ranged(1000, low=0, high=2**32 - 1)
    stop_at_return: float | None = None
    trace: bool = False

    def __post_init__(self):
        check_ranges("evaluation.", self)
        if self.stop_at_return is not None and not (self.every and math.isfinite(self.stop_at_return)):
            wanted = "a number, and evaluation.every= above 0, when to look"
            raise UserError(f"evaluation.stop_at_return={self.stop_at_return}: {wanted}")


@dataclass(frozen=True)
class CheckpointConfig:
    """Save a checkpoint every `every` environment steps; the newest `keep` stay on disk."""

    every: int = ranged(10_000, low=1)
    keep: int = ranged(2, low=1)

    def __post_init__(self):
        check_ranges("checkpoint.", self)


@dataclass(frozen=True)
class LoopConfig:
    """The training loop: who acts in it, and how; `steps` environment steps in all, reproducible by `seed`.

    Keys explained in configs/train.yaml. Experts: `policies.training.episodes`. While rewards are rarer than
    `sparse_reward_threshold`, nothing matters more than finding them; this is decided whenever an episode begins, for
    all environments at once.
    """

    seed_steps: int = ranged(500, low=1)
    noise: str = "mixed"
    sparse_reward_threshold: float = ranged(0.0, low=0, high=1)
    demonstrations: int = ranged(0, low=0)
    expert_takeover_prob: float = ranged(0.0, low=0, high=1)
    steps: int = ranged(22_000, low=1)
    seed: int = ranged(1, low=0, high=2**32 - 1)

    def __post_init__(self):
        check_ranges("", self)
        registry.check("noise", self.noise, "noise")


@dataclass(frozen=True)
class GuidanceKeys:
    """Guidances to follow, each perhaps `<folder>*0.5`, with `weight` against what the agent learned (None: theirs)."""

    folders: tuple[str, ...] | str = ""
    weight: float | None = None

    def __post_init__(self):
        if self.weight is not None:
            check("guidance.", self, "weight", low=0, high=1)
        if wrong := [text for text in self.given if not 0 < _weighted(text)[1] < math.inf]:
            raise UserError(f"guidance=[{wrong[0]}]: weights above 0")

    @property
    def given(self) -> tuple[str, ...]:
        """What stands for each of them."""
        if not isinstance(self.folders, str):
            return self.folders
        listed = self.folders[1:-1].split(",") if self.folders.startswith("[") else [self.folders]  # as LeRobot has it
        return tuple(text.strip() for text in listed if text)

    @property
    def each(self) -> list[tuple[Path, float]]:
        """The folder of each, and its weight among them."""
        return [_weighted(text) for text in self.given]


def _weighted(text: str) -> tuple[Path, float]:
    found = re.fullmatch(r"(.+?) *\* *([\d.]+(?:e-?\d+)?)", text)
    return (Path(found[1]), float(found[2])) if found else (Path(text), 1.0)


@dataclass(frozen=True)
class Wish:
    """What a guidance asks for, apart from how it is read from a latent; `weight`: its share of the reward."""

    sentence: str
    terms: tuple[Term, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class CodecChoices:
    """The size of a codec's strings: a chunk becomes `ids` ids of `bits` bits each (configs/tokens.yaml)."""

    ids: int = ranged(8, low=1, high=256)
    bits: int = ranged(12, low=1, high=16)

    def __post_init__(self):
        check_ranges("", self)


@dataclass(frozen=True)
class CodecConfig(CodecChoices):
    """The settings of a codec, for chunks of `length` control steps."""

    length: int = ranged(50, low=5)
