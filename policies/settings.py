"""What can be set about a training run. No torch here: commands read it to print help."""

from dataclasses import dataclass

from worldmodel.ranges import check


@dataclass(frozen=True)
class ReplayConfig:
    """How many steps are kept, over all environments."""

    capacity: int = 1_000_000

    def __post_init__(self):
        """Raise ValueError for no room at all."""
        check("replay.", self, "capacity", low=1)


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training: every so many environment steps (0: only at the end), in so many episodes."""

    every: int = 50_000
    episodes: int = 10
    seed: int = 1000

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("evaluation.", self, "every", low=0)
        check("evaluation.", self, "episodes", low=1)
        check("evaluation.", self, "seed", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """A checkpoint every so many environment steps; the newest `keep` stay on disk."""

    every: int = 10_000
    keep: int = 2

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("checkpoint.", self, "every keep", low=1)


@dataclass(frozen=True)
class LoopConfig:
    """The loop itself: environment steps in all, random control steps before learning starts."""

    steps: int = 25_000
    seed_steps: int = 500
    seed: int = 1

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "steps seed_steps", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)
