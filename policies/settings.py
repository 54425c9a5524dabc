"""What can be set about a training run. No torch here: commands read it to print help."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReplayConfig:
    """How many steps are kept, over all environments."""

    capacity: int = 1_000_000

    def __post_init__(self):
        """Raise ValueError for no room at all."""
        if self.capacity < 1:
            raise ValueError(f"replay.capacity={self.capacity}: at least 1")


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training: every so many environment steps (0: only at the end), in so many episodes."""

    every: int = 50_000
    episodes: int = 10
    seed: int = 1000

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        if self.every < 0:
            raise ValueError(f"evaluation.every={self.every}: at least 0")
        if self.episodes < 1:
            raise ValueError(f"evaluation.episodes={self.episodes}: at least 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """A checkpoint every so many environment steps; the newest `keep` stay on disk."""

    every: int = 10_000
    keep: int = 2

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        if self.every < 1 or self.keep < 1:
            raise ValueError("checkpoint.every and checkpoint.keep: at least 1")


@dataclass(frozen=True)
class LoopConfig:
    """The loop itself: environment steps in all, random control steps before learning starts."""

    steps: int = 25_000
    seed_steps: int = 500
    seed: int = 1

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least 1")
        if self.seed_steps < 1:
            raise ValueError(f"seed_steps={self.seed_steps}: at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: from 0 to {2**32 - 1}")
