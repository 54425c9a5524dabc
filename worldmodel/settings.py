"""Settings of the world model, its learning and its planner. Free of torch: commands import it to print help."""

import math
from dataclasses import dataclass, field

from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import check, check_ranges, one_of, ranged


@dataclass(frozen=True)
class TokenConfig:
    """An action token: a curve of `control_points` per action dimension, spanning `length` control steps.

    `degree`: of the curve (0: piecewise constant). `joined`: each token begins where the previous one ended, an
    episode's first at 0, so the first control point is not chosen.
    """

    length: int = ranged(1, low=1, high=1000)
    control_points: int = 1
    degree: int = 0
    joined: bool = False

    def discount(self, step: float) -> float:
        """Return the discount over one whole token, given the discount of one control `step`."""
        return step**self.length

    def steps(self, step: float) -> float:
        """Return the control steps of one whole token, each discounted by `step` for every one before it."""
        return sum(step**before for before in range(self.length))

    def __post_init__(self):
        check_ranges("model.token.", self)
        check("model.token.", self, "control_points", 1, high=self.length, why=" (model.token.length)")
        most = self.control_points - 1
        check("model.token.", self, "degree", 0, high=most, why=" (model.token.control_points - 1)")
        if self.joined and not self.degree:
            raise UserError("model.token.joined=true: not with model.token.degree=0, which has no curve")


@dataclass(frozen=True)
class VisionConfig:
    """How frames are encoded: the keys `model.vision.*`, explained in configs/train.yaml."""

    patch: int = ranged(8, low=1)
    width: int = ranged(64, low=1, high=2**12)
    frame_lags: tuple[int, ...] = (0, 1)

    def __post_init__(self):
        check_ranges("model.vision.", self)
        lags = self.frame_lags
        if lags[:1] != (0,) or len(set(lags)) < len(lags) or not all(0 <= lag <= 32 for lag in lags):
            raise UserError(f"model.vision.frame_lags={list(lags)}: 0, and then different numbers from 1 to 32")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nets, `precision` of matrix products (auto, bf16, fp32), `encoder` by its name in the registry.

    `poses`: where in the state poses begin (place, quaternion); all but the first are given as it sees them, too
    (`worldmodel.encoder.seen_from`).
    """

    latent: int = ranged(128, low=1, high=2**14)
    group: int = ranged(8, low=1, high=2**14)
    width: int = ranged(256, low=1, high=2**14)
    bins: int = ranged(101, low=3, high=2**10)
    value_heads: int = ranged(2, low=1, high=64)
    precision: str = one_of("auto", ("auto", "bf16", "fp32"))
    encoder: str = "default"
    poses: tuple[int, ...] = ()
    token: TokenConfig = field(default_factory=TokenConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self):
        check_ranges("model.", self)
        registry.check("encoder", self.encoder, "model.encoder")
        if len(self.poses) == 1 or any(place < 0 for place in self.poses):
            raise UserError(f"model.poses={list(self.poses)}: where in the state two or more poses begin, or none")
        if self.latent % self.group:
            raise UserError(f"model.latent={self.latent}: a multiple of model.group={self.group}")


@dataclass(frozen=True)
class Term:
    """A quantity wished from `low` to `high`, or infinite. `spread`: how far it ranged where it was learned."""

    quantity: str
    low: float = -math.inf
    high: float = math.inf
    spread: float = 1.0

    def holds(self, value):
        """Return where a value of the quantity, a number or a tensor of any shape, fulfils the wish."""
        return (value >= self.low) & (value <= self.high)


@dataclass(frozen=True)
class Via:
    """Where a joint's target is to be, after `step` control steps of an episode or since a guidance was taken.

    `action`: the number of the action that moves it; `goal`, `deviation`: where, in units of it. It is that action; or,
    with a `state`, the sum of all until then, and of what is at these places of the state now, over `span`.
    """

    said: str
    step: int = ranged(1, low=1)
    action: int = ranged(0, low=0)
    goal: float = ranged(0.0, low=-1e6, high=1e6)
    deviation: float = ranged(1.0, above=0)
    span: float = ranged(1.0, above=0)
    state: tuple[int, ...] = ()

    def __post_init__(self):
        check_ranges("via.", self)


@dataclass(frozen=True)
class LearningConfig:
    """The losses, the optimiser and the target network: the keys `learning.*`, explained in configs/train.yaml.

    `horizon` counts tokens. Weights of losses end in `_coef`; `*_lr_scale` multiply `learning_rate`. With cameras
    `vision_lr_scale` replaces `encoder_lr_scale`. `tau` is the step of the target network towards the newest weights.
    `losses`: weights of registered losses, by their names in `worldmodel.registry`.
    """

    batch_size: int = ranged(128, low=1, high=2**16)
    horizon: int = ranged(3, low=1, high=100)
    rho: float = ranged(0.5, above=0, high=1)
    consistency_coef: float = ranged(20.0, low=0)
    reward_coef: float = ranged(0.1, low=0)
    value_coef: float = ranged(0.1, low=0)
    termination_coef: float = ranged(0.1, low=0)
    entropy_coef: float = ranged(1e-4, low=0)
    planner_distillation_coef: float = ranged(1.0, low=0)
    bc_coef: float = ranged(10.0, low=0)
    learning_rate: float = ranged(8e-4, above=0)
    encoder_lr_scale: float = ranged(0.3, above=0)
    vision_lr_scale: float = ranged(1.0, above=0)
    grad_clip_norm: float = ranged(20.0, above=0)
    tau: float = ranged(0.01, above=0, high=1)
    ema_updates: float = ranged(1000.0, low=1)
    updates_per_token: float = ranged(1.0, low=0, high=1000)
    demonstration_fraction: float = ranged(0.5, low=0, high=1)
    modality_dropout: float = ranged(0.3, low=0, high=0.9)
    modality_consistency_coef: float = ranged(20.0, low=0)
    random_shift_px: int = ranged(4, low=0, high=32)
    contrastive_coef: float = ranged(0.5, low=0)
    losses: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        check_ranges("learning.", self)
        for name, weight in self.losses.items():
            registry.check("loss", name, "learning.losses")
            if not math.isfinite(weight):
                raise UserError(f"learning.losses.{name}={weight}: a finite number")


@dataclass(frozen=True)
class PlannerConfig:
    """The search over plans of tokens, guided by the policy: the keys `planner.*`, explained in configs/train.yaml.

    `algorithm`: mppi, or one by its name in `worldmodel.registry`.

    Training ignores `anchor`, `deadline_ms` and `td_check_steps`: an agent that stays near its policy, or that gives up
    a plan that fails, discovers nothing new.
    """

    samples: int = ranged(64, low=2, high=2**16)
    policy_samples: int = 16
    elites: int = 16
    iterations: int = ranged(2, low=1, high=100)
    horizon: int = ranged(5, low=1, high=100)
    std: float = ranged(0.5, above=0)
    min_std: float = 0.05
    warm_start_fraction: float = ranged(0.5, low=0, high=1)
    anchor: float = ranged(0.0, low=0, high=1e6)
    temperature: float = ranged(0.5, above=0)
    return_scale_floor: float = ranged(0.1, above=0)
    deadline_ms: float = ranged(0.0, low=0)
    replan_every: int = ranged(0, low=0)
    td_check_steps: int = ranged(30, low=0)
    algorithm: str = "mppi"

    def __post_init__(self):
        check_ranges("planner.", self)
        registry.check("planner", self.algorithm, "planner.algorithm")
        check("planner.", self, "policy_samples elites", 1, high=self.samples - 1, why=" (planner.samples - 1)")
        check("planner.", self, "min_std", above=0, high=self.std, why=" (planner.std)")
