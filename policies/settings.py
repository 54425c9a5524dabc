"""What can be set about a training run and about a codec. No torch here: commands read it to print help."""

from dataclasses import dataclass

from worldmodel.mistakes import Mistake
from worldmodel.ranges import check


@dataclass(frozen=True)
class ReplayConfig:
    """How many steps are kept, over all environments; no more than `frames` where cameras are seen.

    A frame of 64 x 64 takes 12 kB.
    """

    capacity: int = 1_000_000
    frames: int = 100_000

    def __post_init__(self):
        """Raise ValueError for no room at all."""
        check("replay.", self, "capacity frames", low=1, high=10**9)

    def room(self, cameras: bool) -> int:
        """How many steps are kept, with cameras or without."""
        return min(self.capacity, self.frames) if cameras else self.capacity


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training: every so many environment steps (0: only at the end), in so many episodes."""

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
    """A checkpoint every so many environment steps; the newest `keep` stay on disk."""

    every: int = 10_000
    keep: int = 2

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("checkpoint.", self, "every keep", low=1)


NOISES = ("white", "pink", "mixed")
EXPERT = "expert_action"
"""Where an environment's `info` says what an expert would do next, and how a reset's options ask for it."""


@dataclass(frozen=True)
class ActingConfig:
    """Who acts in a loop, and how: random control steps before learning starts, what exploring adds.

    `demonstrations`: so many episodes, the first ones, are driven by the environment's own expert
    (`policies.training.experts`). `takeover`: in later ones, the probability at each control step that it takes over,
    until the episode's end.

    An episode is searched and explored over the whole range of actions, and not as `planner.spread` says, where less
    than `scarcity` of all the steps before had another reward than the median one: as long as rewards are so rare,
    nothing is worth more than finding them. Of several environments, all do as the one that began an episode last.
    """

    seed_steps: int = 500
    noise: str = "mixed"
    scarcity: float = 0.0
    demonstrations: int = 0
    takeover: float = 0.0

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "seed_steps", low=1)
        check("", self, "demonstrations", low=0)
        check("", self, "takeover scarcity", low=0, high=1)
        if self.noise not in NOISES:
            raise Mistake(f"noise={self.noise}: one of {', '.join(NOISES)}")


@dataclass(frozen=True)
class LoopConfig(ActingConfig):
    """The loop itself: environment steps in all, and the seed that makes them repeatable."""

    steps: int = 25_000
    seed: int = 1

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        ActingConfig.__post_init__(self)
        check("", self, "steps", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)


WRITINGS = ("auto", "curves", "corners")


@dataclass(frozen=True)
class CodecChoices:
    """What can be chosen of a codec whatever the rate: a chunk becomes `ids` ids of `bits` bits (2^bits words).

    `knots`: control points of its curve, of the given `degree`; 0: one for five steps, which at 50 Hz is ten a second.
    `margin`: decoded values stay within so many times the half range of the data (its 1-99 % quantiles), or within the
    limits given to `Codec.fit`. `relative`: the curve begins where the arm is, so that chunks join; without it the ids
    say where it begins, and decode with nothing but themselves. `events`: find channels that switch and encode when
    and to what, instead of a curve. `writing`: "curves", or "corners" for actions that jump in every channel, where an
    id says where one channel turns; "auto": curves, unless they are far off and corners clearly better. `worth`: a
    corner is written if it lowers the mean squared error of the scaled chunk by that squared.
    """

    ids: int = 8
    bits: int = 12
    knots: int = 0
    degree: int = 3
    margin: float = 1.3
    relative: bool = True
    events: bool = True
    writing: str = "auto"
    worth: float = 0.008

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "ids", low=1, high=256)
        check("", self, "bits", low=1, high=16)
        check("", self, "degree", low=1, high=5)
        check("", self, "margin", low=1)
        check("", self, "worth", above=0)
        if self.writing not in WRITINGS:
            raise Mistake(f"writing={self.writing}: one of {', '.join(WRITINGS)}")
