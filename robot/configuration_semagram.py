"""Configuration of a Semagram policy, as LeRobot's commands read it: `--policy.type=semagram`."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.optim import AdamConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from policies.storage.folders import FORMAT, check_format
from policies.text_encoder import WORDS
from worldmodel import senses as naming
from worldmodel.errors import UserError
from worldmodel.senses import IMAGE_KEY_PREFIX, LANGUAGE_KEY, STATE_KEY, check_sides, is_image
from worldmodel.settings import ModelConfig, PlannerConfig, TokenConfig
from worldmodel.strict import check_ranges, ranged

ALIKE = 0.98  # cosine similarity above which two sentences count as the same


@dataclass(frozen=True)
class ImitatorConfig(ModelConfig):
    """A model of eight-step tokens by default; a class, as LeRobot's parser takes a class's defaults."""

    token: TokenConfig = field(default_factory=lambda: TokenConfig(8, 4, 3))


@PreTrainedConfig.register_subclass("semagram")
@dataclass
class SemagramConfig(PreTrainedConfig):
    """The config.json of a checkpoint: all of `policies.storage.checkpoint.AgentSpec`, and what LeRobot requires.

    `planned`: act by the planner (impossible for a policy that learned no reward), else by the policy alone. `seed`: of
    the planner's sampling. `horizon`: number of tokens the world model imagines in a training window. `consistency`:
    weight of the consistency loss on imagined latents against imitation. `dropout`, `shift`: as
    `learning.modality_dropout` and `learning.random_shift_px` of semagram-train. `image_size`: height and width of the
    frames a new policy sees, whatever size its cameras have; or `senses` gives the shape of everything it
    perceives, a camera's as [height, width, 3].
    Otherwise the senses come from the features, like `action_size`; `sentences` from the dataset, if it has several
    tasks; `task` and `env_steps` from semagram-train. `quantities`: units
    of those recorded. `guidance`: what to follow, and `guidance_weight`: how much (`policies.settings.GuidanceKeys`).
    `format`: of the checkpoint (`policies.storage.folders`).
    """

    n_obs_steps: int = 1
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "STATE": NormalizationMode.IDENTITY,
            "VISUAL": NormalizationMode.IDENTITY,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )
    model: ImitatorConfig = field(default_factory=ImitatorConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    planned: bool = False
    seed: int = ranged(100, low=0, high=2**32 - 1)
    horizon: int = ranged(3, low=1)
    consistency: float = 20.0
    dropout: float = ranged(0.3, low=0, high=0.9)
    shift: int = ranged(4, low=0, high=32)
    image_size: int = 64
    learning_rate: float = 3e-4
    clip: float = 20.0
    task: dict = field(default_factory=dict)
    senses: dict = field(default_factory=dict)
    action_size: int = 0
    discount: float = 0.95
    quantities: dict = field(default_factory=dict)
    guidance: str = ""
    guidance_weight: float | None = None
    env_steps: int = 0
    sentences: list[str] = field(default_factory=list)
    format: int = FORMAT

    def __post_init__(self):
        """Remember whether `senses` were given explicitly."""
        super().__post_init__()
        self._given = bool(self.senses)

    @property
    def state_size(self) -> int:
        """Size of the state; 0 before it is known."""
        return self.senses.get(OBS_STATE, [0])[0]

    @property
    def moments(self) -> list[list[int]]:
        """The steps of the frames seen at each of `horizon` + 1 token boundaries, counted from the window's start."""
        ends = [t * self.model.token.length for t in range(self.horizon + 1)]
        return [[end - lag for lag in self.model.vision.frame_lags] for end in ends]

    @property
    def observation_delta_indices(self) -> list[int]:
        """The control steps of a window at which observations are needed."""
        return sorted({step for moment in self.moments for step in moment})

    @property
    def action_delta_indices(self) -> list[int]:
        """All control steps of a window."""
        return list(range(self.horizon * self.model.token.length))

    @property
    def reward_delta_indices(self) -> None:
        """None: rewards in recordings are not used."""

    def get_optimizer_preset(self) -> AdamConfig:
        """Return Adam with `learning_rate` and gradients clipped to norm `clip`."""
        return AdamConfig(lr=self.learning_rate, grad_clip_norm=self.clip)

    def get_scheduler_preset(self) -> None:
        """Return None: the learning rate is constant."""

    def validate_features(self) -> None:
        """Take sizes and, unless known, senses from the features. Raises ValueError for what does not fit."""
        check_format("policy", self.format)
        features, action = self.input_features or {}, (self.output_features or {}).get(ACTION)
        if action is None:
            raise UserError(f"policy: {ACTION} is missing among the features")
        check_sides(f"policy.image_size={self.image_size}", self.image_size)
        there = {key: features[key].shape for key in features.keys() & {STATE_KEY}}
        there |= {key: each.shape for key, each in features.items() if is_image(key) and each.shape[0] == 3}
        self.senses = self.senses or self._senses_of(there, features)
        check_shapes(self.senses)
        if not self.action_size:  # a new policy: a trained one may meet a robot without a camera, which is then missing
            if lacking := [key for key in self.senses if key not in (*there, LANGUAGE_KEY)]:
                some = ", ".join(there) or "nothing"
                raise UserError(f"policy.senses.{lacking[0]}: not there; of what is there it can perceive {some}")
            if self.image_size != SemagramConfig.image_size and (self._given or not any(map(is_image, self.senses))):
                why = "policy.senses says each camera's size" if self._given else "no camera is there"
                raise UserError(f"policy.image_size={self.image_size}: {why}; leave it out")
        for name, key, size in (("action", ACTION, self.action_size), ("state", OBS_STATE, self.state_size)):
            feature = action if key == ACTION else features.get(key)
            if feature is not None and size not in (0, *feature.shape):
                raise UserError(f"policy: {name} has {size} numbers in this checkpoint, {feature.shape[0]} here")
        self.input_features: dict[str, PolicyFeature] = {key: features[key] for key in features if key in self.senses}
        self.action_size = action.shape[0]
        check_ranges("policy.", self)
        if self.model.token.joined and not self.task:
            raise UserError("policy.model.token.joined=true: recorded actions are places, and no episode begins at 0")
        if self.planned and not self.task:
            raise UserError("policy.planned=true: it learned from recordings, which do not tell what is good; false")

    def _senses_of(self, there: Mapping, features: Mapping) -> dict[str, list[int]]:
        """Return the senses that the usable features give a new policy; warn of other cameras. Raises ValueError."""
        for key, feature in features.items():
            if key not in there and key.startswith("observation.image"):
                why = f"not perceived; {IMAGE_KEY_PREFIX}<camera> (3, h, w) is"
                warnings.warn(f"{key} {tuple(feature.shape)}: {why}", stacklevel=2)
        if not there:
            some = ", ".join(features) or "nothing"
            raise UserError(f"policy: it acts by {STATE_KEY} and {IMAGE_KEY_PREFIX}<camera>; the features are {some}")
        return {key: [self.image_size] * 2 + [3] if is_image(key) else list(there[key]) for key in there}

    def take_sentences(self, sentences: Iterable[str]) -> None:
        """Take in a dataset's instructions: a new policy gets the language sense if there is more than one.

        One whose `senses` were given without language does not. Raises ValueError for a policy with the language sense
        but without any instruction. Warns of two that are the same to the text encoder, which ignores word order.
        """
        known = [each for each in sentences if each.strip()]
        if LANGUAGE_KEY in self.senses:
            self.sentences += [each for each in known if each not in self.sentences]
        elif len(known) > 1 and not self._given:
            self.senses, self.sentences = self.senses | {LANGUAGE_KEY: [WORDS.size]}, known
        if LANGUAGE_KEY in self.senses and not self.sentences:
            raise UserError(f"policy.senses.{LANGUAGE_KEY}: no task of the dataset has any text; leave it out")
        if not known or LANGUAGE_KEY not in self.senses:
            return
        vectors = WORDS.encode(self.sentences)
        for i, j in ((vectors @ vectors.T).triu(1) > ALIKE).nonzero().tolist():
            one, other = self.sentences[i], self.sentences[j]
            warnings.warn(f"tasks {one!r} and {other!r} can hardly be distinguished by their words", stacklevel=2)


def check_shapes(senses: Mapping) -> None:
    """Raise ValueError unless `policy.senses` maps known senses to valid shapes, with frames of a supported size."""
    for key, shape in senses.items():
        if not isinstance(shape, list | tuple) or not all(type(number) is int for number in shape):
            raise UserError(f"policy.senses.{key}={shape}: a shape, [48, 64, 3] of a camera 48 pixels high, 64 wide")
    if tuple(senses.get(LANGUAGE_KEY, (WORDS.size,))) != (WORDS.size,):
        raise UserError(f"policy.senses.{LANGUAGE_KEY}={senses[LANGUAGE_KEY]}: [{WORDS.size}], as long as its vectors")
    try:
        naming.check({key: tuple(shape) for key, shape in senses.items()})
    except UserError as error:
        raise UserError(f"policy.senses: {error}") from error
    for key, shape in senses.items():
        if is_image(key):
            check_sides(f"policy.senses.{key}={list(shape)}", *shape[:2], example="[48, 64, 3]")
