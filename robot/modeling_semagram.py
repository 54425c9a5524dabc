"""A Semagram checkpoint as a LeRobot policy: the same agent, acting and learning under LeRobot's commands."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from policies.agent import Agent
from policies.guidance.chosen import Chosen
from policies.settings import GuidanceKeys
from policies.storage.checkpoint import CONFIG, MODEL, load_into, read_spec, reward_free, tensor_bytes
from policies.storage.folders import MANIFEST, made_by, manifest, replace_file
from policies.text_encoder import WORDS, recognised
from policies.tokens.curves import Curve
from robot.configuration_semagram import SemagramConfig
from sim.renderer import middle, shows
from worldmodel.encoder import sense_dropout_mask, shifted
from worldmodel.errors import UserError
from worldmodel.imitation import ImitationBatch, imitation_loss
from worldmodel.model import WorldModel
from worldmodel.observation import Observation, ages, unbroken
from worldmodel.senses import LANGUAGE_KEY, Shapes, is_image, shows_scene

BLIND = 30  # control steps: a second at the usual 30 Hz
TASK = "task"  # key of the instructions in a LeRobot batch, a list of strings


class SemagramPolicy(PreTrainedPolicy):
    """Acts token by token through the planner, or by the policy alone (`config.planned`).

    `forward` learns from recordings: the world model's dynamics, and imitation. Neither reward nor value is learned
    from them, so the result acts by the policy alone, and a checkpoint that is trained further no longer plans.
    """

    config_class = SemagramConfig
    name = "semagram"

    def __init__(self, config: SemagramConfig, dataset_stats: dict | None = None, dataset_meta=None, **kwargs):
        """Create a policy, its normaliser by `dataset_stats`, sentences by `dataset_meta`. Raises ValueError."""
        super().__init__(config)
        config.validate_features()
        config.take_sentences(() if dataset_meta is None or dataset_meta.tasks is None else dataset_meta.tasks.index)
        self.curve = Curve.of_token(config.model.token, config.action_size)
        senses = {key: tuple(shape) for key, shape in config.senses.items()}
        self.model = WorldModel(senses, self.curve.size, config.model)
        self.model.explores = reward_free(config.task)
        self._missed: set[str] = set()
        self._blind: dict[str, Tensor] = {}  # per robot, consecutive steps or chunks in which nothing was seen
        if dataset_stats and OBS_STATE in dataset_stats and OBS_STATE in senses:
            mean, std, count = (torch.as_tensor(dataset_stats[OBS_STATE][name]) for name in ("mean", "std", "count"))
            if not bool(torch.isfinite(mean).all() & torch.isfinite(std).all()):
                raise UserError(f"{OBS_STATE}: the dataset's mean or deviation is not finite; a joint was no number")
            self.model.normaliser.take(mean, std, int(count.max()))
        self.generator = torch.Generator().manual_seed(config.seed)
        self._folder: Path | None = None  # that the weights came from
        self._chosen: Chosen | None = None
        self.agent = self._agent()

    def _agent(self, generator: torch.Generator | None = None) -> Agent:
        config, generator = self.config, generator or self.generator
        settings = config.planner, config.discount, config.sentences
        agent = Agent.acting(self.model, *settings, generator, config.planned)
        return self._chosen.guide(agent) if self._chosen else agent

    def _guide(self) -> None:
        """Follow the guidances of the config, if any, on the device of the model. Raises UserError, FolderError."""
        keys = GuidanceKeys(self.config.guidance, self.config.guidance_weight)
        if not keys.given:
            return
        if self._folder is None:
            raise UserError(f"policy.guidance={self.config.guidance}: only for a policy that was trained")
        self._chosen = Chosen.load(keys, self._folder, self.model)
        self._chosen.guide(self.agent)

    def reset(self) -> None:
        """Forget the current tokens and plans: new episodes begin."""
        self._blind = {}
        self._guide()  # the model may be on another device now
        self.agent.forget()

    def select_action(self, batch: dict, **kwargs) -> Float[Tensor, "B A"]:
        """Return the next actions of B robots, by states, images (B, 3, h, w) and `task`. Raises ValueError."""
        with torch.inference_mode(False):  # the agent stores its decisions and modifies them later
            return self.agent.act(self._observe(batch, "steps")).to(self.config.device)

    def predict_action_chunk(self, batch: dict, **kwargs) -> Float[Tensor, "B T A"]:
        """Return the actions up to the next decision, from a fresh decision that does not disturb `select_action`.

        Earlier frames are unknown, so that a camera shows no motion, as at the start of an episode. Raises ValueError
        for a policy with joined tokens: where they would continue from is unknown.
        """
        if self.config.model.token.joined:
            raise ValueError(
                "policy.model.token.joined: a chunk does not know what was done before; select_action does"
            )
        if self.agent.vias.each:
            raise ValueError("policy.guidance: a chunk does not know how long ago its via began; select_action does")
        with torch.inference_mode(False):
            agent = self._agent(torch.Generator().set_state(self.generator.get_state()))
            observation = agent.frames.see(self._observe(batch, "chunks"))
            return agent.decide(observation).actions.to(self.config.device)

    def _observe(self, batch: dict, counted: str) -> Observation:
        """Return what the policy perceives of the current batch; `counted`: what a call is, "steps" or "chunks".

        Raises ValueError if a policy that was trained on a task gets other observations than the task's (LeRobot's
        commands pass a robot's observations on unchanged, and take the actions for joint targets), or if a robot
        without a task has seen nothing for more than BLIND steps: its actions would mean nothing.
        """
        task = self.config.task
        try:
            observation = perceived(batch, self.model.senses)
            if task and (wrong := unlike(batch, self.model.senses)):
                raise UserError(wrong)
        except UserError as error:
            raise UserError(f"{error}{f' ({task["name"]}; on an arm semagram-run runs it)' if task else ''}") from error
        self._note_missing(observation, batch)
        if task:
            return observation
        there = torch.stack([present for key, present in observation.present.items() if shows_scene(key)]).any(0)
        before = self._blind.get(counted, torch.zeros(0))
        before = before if len(before) == len(there) else torch.zeros(len(there))
        blind = self._blind[counted] = torch.where(there, 0.0, before + 1)
        if bool((blind > BLIND).any()):
            shown = ", ".join(filter(shows_scene, observation.present))
            raise ValueError(f"nothing to be seen for {BLIND} {counted} ({shown}), and there is no other sense")
        return observation

    def _note_missing(self, observation: Observation, batch: dict) -> None:
        """Warn once about each sense that is absent, or whose frames or words are missing for the whole batch."""
        for key, present in observation.present.items():
            if not bool(present.any()) and key not in self._missed:
                self._missed.add(key)
                why = "shows nothing" if (TASK if key == LANGUAGE_KEY else key) in batch else "not there"
                warnings.warn(f"{key}: {why}; it counts as missing", stacklevel=2)

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch of recorded windows, and its parts by name.

        `observation.state` (B, T, S) and `observation.images.<camera>` (B, T, 3, h, w) at the T steps of
        `observation_delta_indices`, and `action` (B, H L, A) in [-1, 1], each with its `_is_pad`, True beyond the ends
        of an episode; `task`, B strings. In training mode, a policy that planned or belonged to a task no longer does
        from then on. Raises ValueError for another size or range.
        """
        config = self.config
        if self.training and (config.planned or config.task):
            config.planned, config.task = False, {}
            config.guidance, self._chosen = "", None
            config.model = replace(config.model, token=replace(config.model.token, joined=False))
            self.model.config = config.model  # recorded actions are absolute positions
            self.agent = self._agent()
        if not (most := float(batch[ACTION].abs().max())) <= 1.001:
            raise UserError(f"{ACTION}: {most:.3g} after LeRobot's normalisation, which should leave none beyond 1")
        actions = batch[ACTION].unflatten(1, (config.horizon, -1))
        whole = ~batch[f"{ACTION}_is_pad"].unflatten(1, (config.horizon, -1)).any(-1)
        index = {step: at for at, step in enumerate(config.observation_delta_indices)}
        moments = [[index[step] for step in moment] for moment in config.moments]
        observation = perceived(batch, self.model.senses, wordless=True)
        some = next(key for key in config.senses if key in batch)
        followed = ~batch[f"{some}_is_pad"][:, [moment[0] for moment in moments[1:]]]
        self._note_missing(observation, batch)
        if (known := self.agent.sentences) is not None:  # as when acting
            words = recognised(observation.values[LANGUAGE_KEY], known)
            observation = observation.with_values({LANGUAGE_KEY: words})
        observation = at_moments(observation, moments)
        if self.training:
            observation = shifted(observation, config.shift, torch.default_generator)
        windows = ImitationBatch(
            seen=observation,
            keep=self._kept(observation),
            token=self.curve.encode(actions.cpu()).to(actions.device).movedim(1, 0),
            whole=whole.movedim(1, 0).float(),
            followed=(whole & followed).movedim(1, 0).float(),
        )
        total, parts = imitation_loss(self.model, windows, config.consistency)
        return total, {name: float(value) for name, value in parts.items()}

    def _kept(self, observation: Observation) -> Float[Tensor, "B n"]:
        """Return 1 for each sense that is not hidden from a window (sense dropout, in training mode only), else 0."""
        there = observation.map(lambda x: x[0]).to(self.model.device).presence
        if not self.training or len(self.config.senses) == 1:
            return torch.ones_like(there)
        return sense_dropout_mask(there, self.model.shows, self.config.dropout, torch.default_generator)

    def get_optim_params(self) -> list[torch.nn.Parameter]:
        """Return all parameters."""
        return list(self.parameters())

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint's own files and their manifest, as semagram-train does; guidance does not go along."""
        config = copy.copy(self.config)
        config.guidance, config.guidance_weight = "", None
        config._save_pretrained(save_directory)
        weights = self.model.state_dict()
        if state_dict is not None:
            weights = {name.removeprefix("model."): value for name, value in state_dict.items()}
        replace_file(save_directory / MODEL, tensor_bytes(weights))
        replace_file(save_directory / MANIFEST, manifest(save_directory, (CONFIG, MODEL), made_by()))

    @classmethod
    def _load_as_safetensor(cls, model: "SemagramPolicy", model_file: str, map_location: str, strict: bool):
        """Load the weights. Raises FolderError if they are damaged, of another format, or do not fit the model."""
        folder = Path(model_file).parent
        read_spec(folder, downloaded=True)
        load_into(model.model, folder)
        model._folder = folder
        model._guide()
        return model


def perceived(batch: Mapping, senses: Shapes, wordless: bool = False) -> Observation:
    """Return what a batch holds of `senses`, for its leading axes *B: robots (B,), or windows of steps (B, T).

    LeRobot's frames are (*B, 3, h, w), floats in [0, 1] or bytes, of any size. A frame of a single colour counts as
    missing; so does, if `wordless`, a task without text. Raises ValueError for a state of another size or that is not
    finite, for a task without text unless `wordless`, and if the batch has none of the senses besides language.
    """
    values, present = {}, {}
    for key in senses.keys() & batch.keys():
        values[key] = framed(batch[key], *senses[key][:2]) if is_image(key) else batch[key].clone()
        if is_image(key):
            present[key] = torch.tensor([shows(frame) for frame in values[key].flatten(0, -4).numpy()])
        elif (here := values[key].shape[-1]) != senses[key][0]:
            raise UserError(f"{key} has {here} numbers here, {senses[key][0]} where this policy was trained")
    if values and LANGUAGE_KEY in senses and TASK in batch:
        key, value = next(iter(values.items()))
        lead = value.shape[: value.dim() - len(senses[key])]
        sentences = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
        there = [bool(each and each.strip()) or not wordless for each in sentences]
        vectors = WORDS.encode(sentences, there)
        axes = len(sentences), *[1] * (len(lead) - 1)
        values[LANGUAGE_KEY] = vectors.view(*axes, -1).expand(*lead, -1)
        present[LANGUAGE_KEY] = torch.tensor(there).view(axes).expand(lead)
    return Observation.of(senses, {**batch, **values}, present)


def framed(frames: Tensor, height: int, width: int) -> UInt8[Tensor, "*B height width 3"]:
    """Bring frames (*B, 3, h, w), floats in [0, 1] or bytes, to a model's size, one at a time."""
    small = []
    for frame in frames.cpu().reshape(-1, *frames.shape[-3:]):
        whole = frame if frame.dtype == torch.uint8 else frame.mul(255).round_().clamp_(0, 255).to(torch.uint8)
        small.append(middle(whole.movedim(0, -1).numpy(), height, width))
    return torch.from_numpy(np.stack(small)).view(*frames.shape[:-3], *small[0].shape)


def unlike(batch: Mapping, senses: Shapes) -> str:
    """Return how a batch's frames differ from those of the model's training (absent or of another size); else ""."""
    for key, shape in senses.items():
        if is_image(key) and key not in batch:
            return f"{key} is not there"
        if is_image(key) and tuple(batch[key].shape[-2:]) != tuple(shape[:2]):
            here, trained = (f"{height} x {width}" for height, width in (batch[key].shape[-2:], shape[:2]))
            return f"{key} has frames of {here} pixels here, {trained} where this policy was trained"
    return ""


def at_moments(observation: Observation, moments: list[list[int]]) -> Observation:
    """From observations at many times (B, T), select M moments as observations (M, B) with stacked frames.

    Each moment is a list of F times, newest first. State and masks are taken at the newest, frames at all of them, by
    the rule of `worldmodel.observation`; what is missing between a moment's times goes unnoticed.
    """
    now, values = [times[0] for times in moments], {}
    for key, value in observation.values.items():
        if is_image(key):
            there = observation.present[key][:, moments].movedim(1, 0)  # (M, B, F)
            at = ages((unbroken(there) - 1).clamp(min=0), range(there.shape[-1]))
            values[key] = torch.take_along_dim(value[:, moments].movedim(1, 0), at[..., None, None, None], 2)
    return observation.map(lambda x: x[:, now].movedim(1, 0)).with_values(values)
