"""What can be set about the world model, its learning and its planner. No torch: commands read it to print help."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TokenConfig:
    """An action token: `knots` control points per action dimension, spanning `length` control steps."""

    length: int = 1
    knots: int = 1
    degree: int = 0

    def __post_init__(self):
        """Raise ValueError unless 1 <= knots <= length and degree < knots."""
        if not 1 <= self.knots <= self.length:
            raise ValueError(f"model.token.knots={self.knots}: from 1 to model.token.length={self.length}")
        if not 0 <= self.degree < self.knots:
            raise ValueError(f"model.token.degree={self.degree}: from 0 to model.token.knots-1={self.knots - 1}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nets, and the arithmetic they run in (`precision`: auto, bf16 or fp32)."""

    latent: int = 128
    group: int = 8
    width: int = 256
    bins: int = 101
    value_heads: int = 2
    precision: str = "auto"
    token: TokenConfig = field(default_factory=TokenConfig)

    def __post_init__(self):
        """Raise ValueError for sizes that no net can have."""
        if self.latent % self.group:
            raise ValueError(f"model.latent={self.latent}: a multiple of model.group={self.group}")
        if min(self.latent, self.group, self.width, self.value_heads) < 1:
            raise ValueError("model.latent, group, width and value_heads: at least 1")
        if self.bins < 3:
            raise ValueError(f"model.bins={self.bins}: at least 3")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"model.precision={self.precision}: one of auto, bf16, fp32")


@dataclass(frozen=True)
class LearningConfig:
    """The losses, the optimiser and the target net.

    `horizon`: tokens imagined in an update, each weighted `rho` times the one before. `value_horizon`: how many of
    their latents the value learns on (1: encoded ones only). `consistency`, `reward`, `value`, `continuation`: weights
    of the losses. `entropy`, `imitation`: of the policy's entropy, and of its distance to the tokens that were taken,
    where the value finds those better. `encoder_rate`: the encoder's learning rate, as a share of `learning_rate`.
    """

    batch: int = 128
    horizon: int = 3
    value_horizon: int = 1
    rho: float = 0.5
    consistency: float = 20.0
    reward: float = 0.1
    value: float = 0.1
    continuation: float = 0.1
    entropy: float = 1e-4
    imitation: float = 1.0
    learning_rate: float = 3e-4
    encoder_rate: float = 0.3
    clip: float = 20.0
    target_rate: float = 0.01
    updates_per_decision: float = 1.0

    def __post_init__(self):
        """Raise ValueError for a value outside its range."""
        for name in ("batch", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"learning.{name}={getattr(self, name)}: at least 1")
        if not 1 <= self.value_horizon <= self.horizon:
            raise ValueError(f"learning.value_horizon={self.value_horizon}: from 1 to learning.horizon={self.horizon}")
        for name in ("rho", "target_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"learning.{name}={getattr(self, name)}: above 0, at most 1")
        for name in ("learning_rate", "encoder_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"learning.{name}={getattr(self, name)}: above 0")
        if self.updates_per_decision < 0:
            raise ValueError(f"learning.updates_per_decision={self.updates_per_decision}: at least 0")


@dataclass(frozen=True)
class PlannerConfig:
    """Model-predictive path integral control over sentences of tokens, anchored on the policy.

    Elites are weighted by exp(return / (`temperature` x their spread)); differences in return below `indifference`
    count for little, so that where the model sees nothing to choose the plan stays broad, and explores.
    """

    samples: int = 64
    policy_samples: int = 16
    elites: int = 16
    iterations: int = 2
    horizon: int = 3
    spread: float = 0.5
    min_spread: float = 0.05
    temperature: float = 0.5
    indifference: float = 0.1
    depths: bool = True
    deadline_ms: float = 0.0

    def __post_init__(self):
        """Raise ValueError for a budget that cannot be spent."""
        if not 1 <= self.policy_samples < self.samples:
            raise ValueError(
                f"planner.policy_samples={self.policy_samples}: from 1 to planner.samples-1={self.samples - 1}"
            )
        if not 1 <= self.elites < self.samples:
            raise ValueError(f"planner.elites={self.elites}: from 1 to planner.samples-1={self.samples - 1}")
        if self.iterations < 1 or self.horizon < 1:
            raise ValueError("planner.iterations and planner.horizon: at least 1")
        if not 0 < self.min_spread <= self.spread:
            raise ValueError(f"planner.min_spread={self.min_spread}: above 0, at most planner.spread={self.spread}")
        if self.temperature <= 0 or self.deadline_ms < 0:
            raise ValueError("planner.temperature: above 0; planner.deadline_ms: at least 0")
