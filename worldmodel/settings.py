"""Settings of the world model, its learning and its planner. Free of torch: commands import it to print help."""

from dataclasses import dataclass, field

from worldmodel.errors import UserError
from worldmodel.ranges import check


@dataclass(frozen=True)
class TokenConfig:
    """An action token: a curve of `control_points` per action dimension, spanning `length` control steps.

    `degree`: of the curve (0: piecewise constant). `joined`: each token begins where the previous one ended, an
    episode's first at 0, so the first control point is not chosen.
    """

    length: int = 1
    control_points: int = 1
    degree: int = 0
    joined: bool = False

    def discount(self, step: float) -> float:
        """Return the discount over one whole token, given the discount of one control `step`."""
        return step**self.length

    def __post_init__(self):
        """Raise ValueError unless 1 <= control_points <= length <= 1000 and degree < control_points (> 0 if joined)."""
        check("model.token.", self, "length", low=1, high=1000)
        check("model.token.", self, "control_points", low=1, high=self.length, why=" (model.token.length)")
        check(
            "model.token.", self, "degree", low=0, high=self.control_points - 1, why=" (model.token.control_points - 1)"
        )
        if self.joined and not self.degree:
            raise UserError("model.token.joined=true: not with model.token.degree=0, which has no curve")


@dataclass(frozen=True)
class VisionConfig:
    """How frames are encoded: the keys `model.vision.*`, explained in configs/train.yaml."""

    patch: int = 8
    width: int = 64
    frame_lags: tuple[int, ...] = (0, 1)

    def __post_init__(self):
        """Raise ValueError for a size out of range, or unless `frame_lags` is 0, then distinct numbers from 1 to 32."""
        check("model.vision.", self, "patch", low=1)
        check("model.vision.", self, "width", low=1, high=2**12)
        if (
            self.frame_lags[:1] != (0,)
            or len(set(self.frame_lags)) < len(self.frame_lags)
            or not all(0 <= lag <= 32 for lag in self.frame_lags)
        ):
            raise UserError(
                f"model.vision.frame_lags={list(self.frame_lags)}: 0, and then different numbers from 1 to 32"
            )


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
            raise UserError(f"model.latent={self.latent}: a multiple of model.group={self.group}")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise UserError(f"model.precision={self.precision}: one of auto, bf16, fp32")


@dataclass(frozen=True)
class LearningConfig:
    """The losses, the optimiser and the target network: the keys `learning.*`, explained in configs/train.yaml.

    `horizon` counts tokens. Weights of losses end in `_coef`; `*_lr_scale` multiply `learning_rate`. With cameras
    `vision_lr_scale` replaces `encoder_lr_scale`. `tau` is the step of the target network towards the newest weights.
    """

    batch_size: int = 128
    horizon: int = 3
    rho: float = 0.5
    consistency_coef: float = 20.0
    reward_coef: float = 0.1
    value_coef: float = 0.1
    termination_coef: float = 0.1
    entropy_coef: float = 1e-4
    planner_distillation_coef: float = 1.0
    bc_coef: float = 10.0
    learning_rate: float = 8e-4
    encoder_lr_scale: float = 0.3
    vision_lr_scale: float = 1.0
    grad_clip_norm: float = 20.0
    tau: float = 0.01
    ema_updates: float = 1000.0
    updates_per_token: float = 1.0
    demonstration_fraction: float = 0.5
    modality_dropout: float = 0.3
    modality_consistency_coef: float = 20.0
    random_shift_px: int = 4
    contrastive_coef: float = 0.5

    def __post_init__(self):
        """Raise ValueError for a value outside its range."""
        check("learning.", self, "batch_size", low=1, high=2**16)
        check("learning.", self, "horizon", low=1, high=100)
        check("learning.", self, "rho tau", above=0, high=1)
        check("learning.", self, "learning_rate encoder_lr_scale vision_lr_scale grad_clip_norm", above=0)
        check("learning.", self, "ema_updates", low=1)
        check(
            "learning.",
            self,
            "consistency_coef reward_coef value_coef termination_coef entropy_coef planner_distillation_coef bc_coef",
            low=0,
        )
        check("learning.", self, "modality_consistency_coef contrastive_coef", low=0)
        check("learning.", self, "updates_per_token", low=0, high=1000)
        check("learning.", self, "modality_dropout", low=0, high=0.9)
        check("learning.", self, "demonstration_fraction", low=0, high=1)
        check("learning.", self, "random_shift_px", low=0, high=32)


@dataclass(frozen=True)
class PlannerConfig:
    """MPPI over plans of tokens, guided by the policy: the keys `planner.*`, explained in configs/train.yaml.

    Training ignores `anchor`, `deadline_ms` and `td_check_steps`: an agent that stays near its policy, or that gives up
    a plan that fails, discovers nothing new.
    """

    samples: int = 64
    policy_samples: int = 16
    elites: int = 16
    iterations: int = 2
    horizon: int = 5
    std: float = 0.5
    min_std: float = 0.05
    warm_start_fraction: float = 0.5
    anchor: float = 0.0
    temperature: float = 0.5
    return_scale_floor: float = 0.1
    deadline_ms: float = 0.0
    replan_every: int = 0
    td_check_steps: int = 30

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("planner.", self, "samples", low=2, high=2**16)
        check("planner.", self, "policy_samples elites", low=1, high=self.samples - 1, why=" (planner.samples - 1)")
        check("planner.", self, "iterations horizon", low=1, high=100)
        check("planner.", self, "std temperature return_scale_floor", above=0)
        check("planner.", self, "min_std", above=0, high=self.std, why=" (planner.std)")
        check("planner.", self, "deadline_ms replan_every td_check_steps", low=0)
        check("planner.", self, "anchor", low=0, high=1e6)
        check("planner.", self, "warm_start_fraction", low=0, high=1)
