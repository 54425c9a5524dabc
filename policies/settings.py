"""Settings of a training run and of a codec. No torch is imported here: commands read this module to print help."""

from dataclasses import dataclass

from worldmodel.errors import UserError
from worldmodel.ranges import check


@dataclass(frozen=True)
class ReplayConfig:
    """Capacity of the replay in control steps, over all environments; with cameras at most `frames` steps.

    A 64 x 64 frame takes 12 kB.
    """

    capacity: int = 1_000_000
    frames: int = 100_000

    def __post_init__(self):
        """Raise ValueError for a capacity out of range."""
        check("replay.", self, "capacity frames", low=1, high=10**9)

    def room(self, cameras: bool) -> int:
        """Return how many steps are kept, with or without cameras."""
        return min(self.capacity, self.frames) if cameras else self.capacity


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training: `episodes` episodes every `every` environment steps (0: only at the end)."""

    every: int = 50_000
    episodes: int = 10
    seed: int = 1000

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("evaluation.", self, "every", low=0)
        check("evaluation.", self, "episodes", low=1, high=10_000)
        check("evaluation.", self, "seed", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """Save a checkpoint every `every` environment steps; the newest `keep` stay on disk."""

    every: int = 10_000
    keep: int = 2

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("checkpoint.", self, "every keep", low=1)


NOISES = ("white", "pink", "mixed")
EXPERT = "expert_action"
"""The key of an expert's next action in an environment's `info`, and of the request for it in reset options."""


@dataclass(frozen=True)
class ActingConfig:
    """Who acts in the training loop, and how: keys explained in configs/train.yaml.

    Experts: `policies.training.experts`. While rewards are rarer than `sparse_reward_threshold`, nothing matters more
    than finding them; this is decided whenever an episode begins, for all environments at once.
    """

    seed_steps: int = 500
    noise: str = "mixed"
    sparse_reward_threshold: float = 0.0
    demonstrations: int = 0
    expert_takeover_prob: float = 0.0

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "seed_steps", low=1)
        check("", self, "demonstrations", low=0)
        check("", self, "expert_takeover_prob sparse_reward_threshold", low=0, high=1)
        if self.noise not in NOISES:
            raise UserError(f"noise={self.noise}: one of {', '.join(NOISES)}")


@dataclass(frozen=True)
class LoopConfig(ActingConfig):
    """The training loop: the total number of environment steps, and the seed that makes the run reproducible."""

    steps: int = 25_000
    seed: int = 1

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        ActingConfig.__post_init__(self)
        check("", self, "steps", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class CodecChoices:
    """The settings of a codec that do not depend on the control rate: keys explained in configs/tokens.yaml.

    A chunk becomes `ids` ids of `bits` bits each. A `relative` curve begins where the arm is, so that consecutive
    chunks join; otherwise the ids encode the start too, and can be decoded on their own.
    """

    ids: int = 8
    bits: int = 12
    control_points: int = 0
    degree: int = 3
    margin: float = 1.3
    relative: bool = True
    events: bool = True

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "ids", low=1, high=256)
        check("", self, "bits", low=1, high=16)
        check("", self, "control_points", low=0, high=1000)
        check("", self, "degree", low=1, high=5)
        check("", self, "margin", low=1)


@dataclass(frozen=True)
class CodecConfig(CodecChoices):
    """The settings of a codec, for chunks of `length` control steps."""

    length: int = 50

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "length", low=2)
        CodecChoices.__post_init__(self)
        if self.control_points and not self.degree < self.control_points <= self.length:
            raise UserError(
                f"control_points={self.control_points}: 0, or from {self.degree + 1} to {self.length} (length)"
            )
        check("", self, "degree", low=1, high=self.curve_points - 1, why=f" for chunks of length={self.length}")

    @property
    def curve_points(self) -> int:
        """The control points of a chunk's curve: `control_points`, or derived from the length if that is 0."""
        return self.control_points or min(self.length, max(self.degree + 2, round(self.length / 5)))
