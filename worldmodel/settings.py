"""What can be set about the world model, its learning and its planner. No torch: commands read it to print help."""

from dataclasses import dataclass, field

from worldmodel.mistakes import Mistake
from worldmodel.ranges import check


@dataclass(frozen=True)
class TokenConfig:
    """An action token: `knots` control points per action dimension, spanning `length` control steps.

    `joined`: a token begins where the last one ended, and an episode's first one at 0, so that its first control point
    is not chosen.
    """

    length: int = 1
    knots: int = 1
    degree: int = 0
    joined: bool = False

    def discount(self, step: float) -> float:
        """Discount over one whole token, from that of one control step."""
        return step**self.length

    def __post_init__(self):
        """Raise ValueError unless 1 <= knots <= length and degree < knots, and where what is joined is no curve."""
        check("model.token.", self, "length", low=1, high=1000)
        check("model.token.", self, "knots", low=1, high=self.length, why=" (model.token.length)")
        check("model.token.", self, "degree", low=0, high=self.knots - 1, why=" (model.token.knots - 1)")
        if self.joined and not self.degree:
            raise Mistake("model.token.joined=true: not with model.token.degree=0, which has no curve")


TOKEN_PRESETS = {
    "step": TokenConfig(),
    "line2": TokenConfig(length=2, knots=2, degree=1, joined=True),
    "line4": TokenConfig(length=4, knots=2, degree=1, joined=True),
}
"""Tokens by name: one control step, or straight lines over two or four, each beginning where the last one ended."""


@dataclass(frozen=True)
class VisionConfig:
    """How frames are seen: in squares of `patch` pixels a side, `width` features each.

    `lags`: of how many control steps ago the frames are that are seen at once: 0, now, and others, to show motion.
    """

    patch: int = 8
    width: int = 64
    lags: tuple[int, ...] = (0, 1)

    def __post_init__(self):
        """Raise ValueError for frames that cannot be."""
        check("model.vision.", self, "patch", low=1)
        check("model.vision.", self, "width", low=1, high=2**12)
        if (
            self.lags[:1] != (0,)
            or len(set(self.lags)) < len(self.lags)
            or not all(0 <= lag <= 32 for lag in self.lags)
        ):
            raise Mistake(f"model.vision.lags={list(self.lags)}: 0, and then different numbers from 1 to 32")


VISION_PRESETS = {"small": VisionConfig(), "large": VisionConfig(patch=4, width=192)}
"""Sizes of the vision encoder, by name: `large` costs eight times as much as `small`, for a GPU."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nets, and the arithmetic they run in (`precision`: auto, bf16 or fp32).

    `rank`: of what the policy's covariance has beside its diagonal, so that numbers of a token are drawn together.
    """

    latent: int = 128
    group: int = 8
    width: int = 256
    bins: int = 101
    value_heads: int = 2
    rank: int = 0
    precision: str = "auto"
    token: TokenConfig = field(default_factory=TokenConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self):
        """Raise ValueError for sizes that no net can have."""
        check("model.", self, "latent group width", low=1, high=2**14)
        check("model.", self, "value_heads", low=1, high=64)
        check("model.", self, "bins", low=3, high=2**10)
        check("model.", self, "rank", low=0, high=8)
        if self.latent % self.group:
            raise Mistake(f"model.latent={self.latent}: a multiple of model.group={self.group}")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise Mistake(f"model.precision={self.precision}: one of auto, bf16, fp32")


@dataclass(frozen=True)
class LearningConfig:
    """The losses, the optimiser and the target net.

    `horizon`: tokens imagined in an update, each weighted `rho` times the one before. `consistency`, `reward`, `value`,
    `continuation`: weights of the losses. `entropy`, `imitation`: of the policy's entropy, and of its distance to the
    tokens that the planner chose, where the value finds what was then done, those with noise, better than the
    policy's own. `encoder_rate`: the encoder's share of `learning_rate`, and `eye_rate` that of an encoder with
    cameras. `updates_per_token`: in a stretch of control steps as long as a token, also where
    `planner.replan_every` decides more or less often. `averaging`: over how many of the last updates (a time constant)
    the weights are averaged that act where nothing is explored; 1: the newest weights act. `demonstrated`: the share of
    a batch that begins with what an expert did, where there are demonstrations; `expert` weighs the policy's distance
    to that, whatever the value holds of it.

    Of several senses each is hidden with probability `dropout` where a window begins (never words, which say what is to
    be done, nor all others at once), and `agreement` weighs the distance of the latent that is left to that of all.
    Frames are moved at random by up to `shift` pixels. Where there are cameras, `contrast` weighs how well an imagined
    latent is told from the others of the batch and of its own window, and that latents differ at all.
    """

    batch: int = 128
    horizon: int = 3
    rho: float = 0.5
    consistency: float = 20.0
    reward: float = 0.1
    value: float = 0.1
    continuation: float = 0.1
    entropy: float = 1e-4
    imitation: float = 1.0
    expert: float = 10.0
    learning_rate: float = 8e-4
    encoder_rate: float = 0.3
    eye_rate: float = 1.0
    clip: float = 20.0
    target_rate: float = 0.01
    averaging: float = 1000.0
    updates_per_token: float = 1.0
    demonstrated: float = 0.5
    dropout: float = 0.3
    agreement: float = 20.0
    shift: int = 4
    contrast: float = 0.5

    def __post_init__(self):
        """Raise ValueError for a value outside its range."""
        check("learning.", self, "batch", low=1, high=2**16)
        check("learning.", self, "horizon", low=1, high=100)
        check("learning.", self, "rho target_rate", above=0, high=1)
        check("learning.", self, "learning_rate encoder_rate eye_rate clip", above=0)
        check("learning.", self, "averaging", low=1)
        check("learning.", self, "consistency reward value continuation entropy imitation expert", low=0)
        check("learning.", self, "agreement contrast", low=0)
        check("learning.", self, "updates_per_token", low=0, high=1000)
        check("learning.", self, "dropout", low=0, high=0.9)
        check("learning.", self, "demonstrated", low=0, high=1)
        check("learning.", self, "shift", low=0, high=32)


@dataclass(frozen=True)
class PlannerConfig:
    """Model-predictive path integral control over sentences of tokens, anchored on the policy.

    Elites are weighted by exp(return / (`temperature` x their spread)); differences in return below `indifference`
    count for little, so that where the model sees nothing to choose the plan stays broad, and explores. A sentence of
    `horizon` tokens is scored by its imagined rewards and the value at its end. Refitted candidates are drawn number
    by number with the elites' deviations, or, for the share `together` of their variance, with the elites' covariance
    over the whole sentence. That covariance is not bounded by `min_spread` and `spread`, which are of single numbers:
    elites that agree draw nothing new together, and the least deviation is sqrt(1 - `together`) x `min_spread`, none
    at `together` = 1.

    A sentence loses `anchor` times its squared distance from the policy's own, summed over all its points, in the unit
    of the reward: what it gains by going far must be more than the value's errors there. Everything here that speaks of
    returns means what is left. Training never anchors: an agent that stays near its policy finds out nothing new.

    A new plan is made every `replan_every` control steps (0: when the token ends). The `fixed` budget does everything
    at each. Under the `adaptive` one the policy's rollouts and the last plan are scored first, and each further
    iteration is only done while the elites' returns deviate by more than `agreement`, relative to the best: a quarter
    of the arithmetic, and worse where the policy alone is far behind. Training does all in any case: what it is sure
    of too early it would never explore.

    Where plans of the last `patience` control steps did not pay half of what they promised the policy acts for as many
    (`worldmodel.plan_audit`; 0: never). Not in training either, which learns from just that.
    """

    samples: int = 64
    policy_samples: int = 16
    elites: int = 16
    iterations: int = 2
    horizon: int = 5
    spread: float = 0.5
    min_spread: float = 0.05
    carry: float = 0.5
    together: float = 0.0
    anchor: float = 0.0
    temperature: float = 0.5
    indifference: float = 0.1
    deadline_ms: float = 0.0
    replan_every: int = 0
    budget: str = "fixed"
    agreement: float = 0.1
    patience: int = 30

    def __post_init__(self):
        """Raise ValueError for a budget that cannot be spent."""
        check("planner.", self, "samples", low=2, high=2**16)
        check("planner.", self, "policy_samples elites", low=1, high=self.samples - 1, why=" (planner.samples - 1)")
        check("planner.", self, "iterations horizon", low=1, high=100)
        check("planner.", self, "spread temperature indifference", above=0)
        check("planner.", self, "min_spread", above=0, high=self.spread, why=" (planner.spread)")
        check("planner.", self, "deadline_ms replan_every agreement patience", low=0)
        check("planner.", self, "anchor", low=0, high=1e6)
        check("planner.", self, "carry together", low=0, high=1)
        if self.budget not in ("fixed", "adaptive"):
            raise Mistake(f"planner.budget={self.budget}: fixed or adaptive")
