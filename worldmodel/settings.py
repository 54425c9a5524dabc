"""Settings of the world model, its learning and its planner. Free of torch: commands import it to print help."""

from dataclasses import dataclass, field

from worldmodel.mistakes import Mistake
from worldmodel.ranges import check


@dataclass(frozen=True)
class TokenConfig:
    """An action token: `knots` control points per action dimension, spanning `length` control steps.

    `degree`: of the curve (0: piecewise constant). `joined`: each token begins where the previous one ended, an
    episode's first at 0, so the first control point is not chosen.
    """

    length: int = 1
    knots: int = 1
    degree: int = 0
    joined: bool = False

    def discount(self, step: float) -> float:
        """Return the discount over one whole token, given the discount of one control `step`."""
        return step**self.length

    def __post_init__(self):
        """Raise ValueError unless 1 <= knots <= length <= 1000 and 0 <= degree < knots, with degree > 0 if joined."""
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
"""Tokens by name: one control step, or joined straight lines over two or four control steps."""


@dataclass(frozen=True)
class VisionConfig:
    """How frames are encoded: in squares of `patch` pixels a side, with `width` features each.

    `lags`: the ages in control steps of the frames that are stacked: 0 (now), then others, to show motion.
    """

    patch: int = 8
    width: int = 64
    lags: tuple[int, ...] = (0, 1)

    def __post_init__(self):
        """Raise ValueError for a size out of range, or unless `lags` is 0 followed by distinct numbers from 1 to 32."""
        check("model.vision.", self, "patch", low=1)
        check("model.vision.", self, "width", low=1, high=2**12)
        if (
            self.lags[:1] != (0,)
            or len(set(self.lags)) < len(self.lags)
            or not all(0 <= lag <= 32 for lag in self.lags)
        ):
            raise Mistake(f"model.vision.lags={list(self.lags)}: 0, and then different numbers from 1 to 32")


VISION_PRESETS = {"small": VisionConfig(), "large": VisionConfig(patch=4, width=192)}
"""Sizes of the vision encoder, by name. `large` is meant for a GPU: it costs eight times as much as `small`."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nets, and the precision of their matrix products (`precision`: auto, bf16 or fp32).

    `rank`: rank of the policy's covariance beyond its diagonal, which correlates the numbers of a token (0: diagonal).
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
        """Raise ValueError for a size out of range, an unknown precision, or if `latent` is no multiple of `group`."""
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

    `horizon`: tokens imagined in an update, each weighted `rho` times the previous one. `consistency`, `reward`,
    `value`, `continuation`: weights of the losses. `entropy`: weight of the policy's entropy. `imitation`: weight of
    its distance to the tokens that the planner chose, applied where the value rates the token then executed (the
    planner's, with noise) above the policy's own. `encoder_rate`: factor on `learning_rate` for the encoder; `eye_rate`
    replaces it if the model has cameras. `target_rate`: step of the target net towards the newest weights per update.
    `updates_per_token`: updates per as many control steps as a token has, however often `planner.replan_every` plans.
    `averaging`: time constant, in updates, of the averaged weights that act when not exploring; 1: the newest weights
    act. `demonstrated`: share of a batch whose windows begin with an expert's step, if there are demonstrations;
    `expert` weights the policy's distance to the expert's token, whatever its value.

    With several senses, each is hidden with probability `dropout` at the start of a window (never language, which says
    what the task is, and never all others at once); `agreement` weights the distance of the resulting latent to that of
    all senses. Frames are shifted at random by up to `shift` pixels. With cameras, `contrast` weights how well an
    imagined latent can be told from others of the batch and of its own window, and that latents vary at all.
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
    """Model-predictive path integral control over plans of tokens, guided by the policy.

    Of `samples` candidates per iteration, the first iteration takes `policy_samples` from the policy and centres the
    share `carry` of the rest on the last plan. A plan of `horizon` tokens is scored by its imagined rewards and the
    value at its end. Elites are weighted by exp(return / (`temperature` x their spread)); differences in return below
    `indifference` count for little, so where the model sees nothing to choose between, the plan stays broad and
    explores. Later candidates are drawn entry by entry with the elites' standard deviations, or, for the share
    `together` of the variance, with the elites' covariance over the whole plan. That covariance is not bounded by
    `min_spread` and `spread`, which bound single entries: elites that agree add no joint noise, and the minimum
    standard deviation is sqrt(1 - `together`) x `min_spread`, 0 at `together` = 1.

    `anchor` times a plan's squared distance from the policy's mode, summed over all its points, is subtracted from its
    return (in reward units): moving far must gain more than the value's errors there. "Return" here always means the
    remainder. Training never anchors: an agent that stays near its policy discovers nothing new.

    A new plan is made every `replan_every` control steps (0: when the token ends). The `fixed` budget runs all
    iterations each time. The `adaptive` one scores the policy's rollouts and the last plan first, and iterates further
    only while the elites' returns deviate by more than `agreement`, relative to the largest absolute return: a quarter
    of the arithmetic, but worse where the policy alone is far behind. Training always uses the full budget: it would
    never explore what it is sure of too early. `deadline_ms` limits the time of a plan (0: no limit).

    If the plans of the last `patience` control steps did not pay half of what they promised, the policy acts for as
    many steps (`worldmodel.plan_audit`; 0: never). Training does without this too, since it learns from such failures.

    Experimental, none of it on by default. `leash` holds plans to the policy as far as they are not to be trusted:
    `anchor` adapts the weight of `anchor`, its first value, to how far plans fell short of the gain over the policy
    that they promised, over about `leash_window` control steps (`worldmodel.leash`); `value` ranks plans by the
    smallest value head instead of the mean, and executes the policy's token unless every head prefers the plan's.
    `leash_training`: do so in training, too. `widths`: the standard deviation of the first candidates' noise; `one`:
    `spread`; `mixed`: by turns 0.2, 0.5 and 1 times `spread`; `policy`: twice the deviation of the policy's own
    rollouts, from `min_spread` to `spread`.
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
    leash: str = ""
    leash_window: float = 100.0
    leash_training: bool = False
    widths: str = "one"

    def __post_init__(self):
        """Raise ValueError for a value out of range or an unknown budget."""
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
        check("planner.", self, "leash_window", low=1)
        if self.leash not in ("", "anchor", "value"):
            raise Mistake(f"planner.leash={self.leash}: anchor or value, or none")
        if self.widths not in ("one", "mixed", "policy"):
            raise Mistake(f"planner.widths={self.widths}: one, mixed or policy")
