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


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nets, and the precision of their matrix products (`precision`: auto, bf16 or fp32)."""

    latent: int = 128
    group: int = 8
    width: int = 256
    bins: int = 101
    value_heads: int = 2
    precision: str = "auto"
    token: TokenConfig = field(default_factory=TokenConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self):
        """Raise ValueError for a size out of range, an unknown precision, or if `latent` is no multiple of `group`."""
        check("model.", self, "latent group width", low=1, high=2**14)
        check("model.", self, "value_heads", low=1, high=64)
        check("model.", self, "bins", low=3, high=2**10)
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
    explores. Later candidates are drawn entry by entry with the elites' standard deviations, bounded by
    `min_spread` and `spread`.

    `anchor` times a plan's squared distance from the policy's mode, summed over all its points, is subtracted from its
    return (in reward units): moving far must gain more than the value's errors there. "Return" here always means the
    remainder. Training never anchors: an agent that stays near its policy discovers nothing new.

    A new plan is made every `replan_every` control steps (0: when the token ends). `deadline_ms` limits the time of a
    plan (0: no limit, as always in training).

    If the plans of the last `patience` control steps realised less than half of the return that they predicted, the
    policy acts for as many steps (`worldmodel.td_check`; 0: never). Training does without: it learns from failures.
    """

    samples: int = 64
    policy_samples: int = 16
    elites: int = 16
    iterations: int = 2
    horizon: int = 5
    spread: float = 0.5
    min_spread: float = 0.05
    carry: float = 0.5
    anchor: float = 0.0
    temperature: float = 0.5
    indifference: float = 0.1
    deadline_ms: float = 0.0
    replan_every: int = 0
    patience: int = 30

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("planner.", self, "samples", low=2, high=2**16)
        check("planner.", self, "policy_samples elites", low=1, high=self.samples - 1, why=" (planner.samples - 1)")
        check("planner.", self, "iterations horizon", low=1, high=100)
        check("planner.", self, "spread temperature indifference", above=0)
        check("planner.", self, "min_spread", above=0, high=self.spread, why=" (planner.spread)")
        check("planner.", self, "deadline_ms replan_every patience", low=0)
        check("planner.", self, "anchor", low=0, high=1e6)
        check("planner.", self, "carry", low=0, high=1)
