"""What can be set about a Semagram policy, as LeRobot's commands read it: `--policy.type=semagram`."""

from dataclasses import dataclass, field

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.optim import AdamConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from worldmodel.settings import ModelConfig, PlannerConfig, TokenConfig


@dataclass(frozen=True)
class ImitatorConfig(ModelConfig):
    """A model whose tokens last, unless set, eight control steps: a quarter of a second at 30 Hz.

    A class of its own, since LeRobot's parser takes a class's defaults for the keys that are not given, not a field's.
    """

    token: TokenConfig = field(default_factory=lambda: TokenConfig(8, 4, 3))


@PreTrainedConfig.register_subclass("semagram")
@dataclass
class SemagramConfig(PreTrainedConfig):
    """The config.json of a checkpoint: everything of `policies.checkpoint.Identity`, and what LeRobot asks for.

    `planned`: act by the planner, which a policy that learned no reward cannot; otherwise by the policy alone. `seed`:
    of the planner's draws. `horizon`: tokens that the world model imagines in a training window. `consistency`: weight
    of what it imagines against imitation. `senses` and `action_size` come from the features, `task` and `env_steps`
    from semagram-train.
    """

    n_obs_steps: int = 1
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {"STATE": NormalizationMode.IDENTITY, "ACTION": NormalizationMode.MIN_MAX}
    )
    model: ImitatorConfig = field(default_factory=ImitatorConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    planned: bool = False
    seed: int = 100
    horizon: int = 3
    consistency: float = 20.0
    learning_rate: float = 3e-4
    clip: float = 20.0
    task: dict = field(default_factory=dict)
    senses: dict = field(default_factory=dict)
    action_size: int = 0
    discount: float = 0.95
    env_steps: int = 0

    @property
    def state_size(self) -> int:
        """Numbers in the state; 0 before it is known."""
        return self.senses.get(OBS_STATE, [0])[0]

    @property
    def observation_delta_indices(self) -> list[int]:
        """The control steps at the ends of a window's tokens."""
        return [t * self.model.token.length for t in range(self.horizon + 1)]

    @property
    def action_delta_indices(self) -> list[int]:
        """Every control step of a window."""
        return list(range(self.horizon * self.model.token.length))

    @property
    def reward_delta_indices(self) -> None:
        """None: recordings are learned from without their rewards."""

    def get_optimizer_preset(self) -> AdamConfig:
        """Adam."""
        return AdamConfig(lr=self.learning_rate, grad_clip_norm=self.clip)

    def get_scheduler_preset(self) -> None:
        """None: the rate stays."""

    def validate_features(self) -> None:
        """Take the sizes from the features, of which only the state is used; cameras are not looked at.

        Raises ValueError for a policy that cannot be.
        """
        state, action = (self.input_features or {}).get(OBS_STATE), (self.output_features or {}).get(ACTION)
        if state is None or action is None:
            missing = OBS_STATE if state is None else ACTION
            raise ValueError(f"policy: {missing} is missing among the features; it is all that Semagram acts by")
        if others := [key for key in self.senses if key != OBS_STATE]:
            raise ValueError(f"policy: it perceives {', '.join(others)}; LeRobot's commands run one of the state alone")
        for name, feature, size in (("state", state, self.state_size), ("action", action, self.action_size)):
            if size not in (0, *feature.shape):
                raise ValueError(f"policy: {name} has {size} numbers in this checkpoint, {feature.shape[0]} here")
        self.input_features = {OBS_STATE: PolicyFeature(FeatureType.STATE, tuple(state.shape))}
        self.senses, self.action_size = {OBS_STATE: [state.shape[0]]}, action.shape[0]
        if self.horizon < 1:
            raise ValueError(f"policy.horizon={self.horizon}: at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"policy.seed={self.seed}: from 0 to {2**32 - 1}")
        if self.planned and not self.task:
            raise ValueError("policy.planned=true: it learned from recordings, which do not tell what is good; false")
