"""A Semagram checkpoint as a LeRobot policy: the same agent, acting and learning under LeRobot's commands."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from policies.agent import Agent
from policies.storage.checkpoint import CONFIG, MODEL, load_into, read_spec
from policies.storage.folders import MANIFEST, manifest, replace_file
from policies.storage.tensors import tensor_bytes
from policies.storage.versions import made_by
from policies.text_encoder import recognised
from policies.tokens.curves import Curve
from robot.configuration_semagram import SemagramConfig
from robot.perceiving import TASK, at_moments, perceived, unlike
from worldmodel.encoder import sense_dropout_mask, shift
from worldmodel.errors import UserError
from worldmodel.losses import ImitationBatch, imitation_loss
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, is_image, shows_scene

BLIND = 30  # control steps: a second at the usual 30 Hz


class SemagramPolicy(PreTrainedPolicy):
    """Acts token by token through the planner, or by the policy alone (`config.planned`).

    `forward` learns from recordings: the world model's dynamics, and imitation. Neither reward nor value is learned
    from them, so the result acts by the policy alone, and a checkpoint that is trained further no longer plans.
    """

    config_class = SemagramConfig
    name = "semagram"

    def __init__(self, config: SemagramConfig, dataset_stats: dict | None = None, dataset_meta=None, **kwargs):
        """Create a new policy.

        `dataset_stats`: initialise the state's normaliser; `dataset_meta`: its tasks are the sentences. Raises
        ValueError for an impossible configuration, or for state statistics that are not finite.
        """
        super().__init__(config)
        config.validate_features()
        config.hear(() if dataset_meta is None or dataset_meta.tasks is None else dataset_meta.tasks.index)
        self.curve = Curve.of_token(config.model.token, config.action_size)
        senses = {key: tuple(shape) for key, shape in config.senses.items()}
        self.model = WorldModel(senses, self.curve.size, config.model)
        self._missed: set[str] = set()
        self._blind: dict[str, Tensor] = {}  # per robot, consecutive steps or chunks in which nothing was seen
        if dataset_stats and OBS_STATE in dataset_stats and OBS_STATE in senses:
            seen = {name: torch.as_tensor(value) for name, value in dataset_stats[OBS_STATE].items()}
            if not all(bool(torch.isfinite(seen[name]).all()) for name in ("mean", "std")):
                raise UserError(f"{OBS_STATE}: the dataset's mean or deviation is not finite; a joint was no number")
            self.model.normaliser.take(seen["mean"], seen["std"], int(seen["count"].max()))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.agent = self._agent()

    def _agent(self, generator: torch.Generator | None = None) -> Agent:
        config, generator = self.config, generator or self.generator
        return Agent.acting(self.model, config.planner, config.discount, config.sentences, generator, config.planned)

    def reset(self) -> None:
        """Forget the current tokens and plans: new episodes begin."""
        self._blind = {}
        self.agent.forget()

    def select_action(self, batch: dict, **kwargs) -> Float[Tensor, "B A"]:
        """Return the next action of each of B robots; called every control step.

        `batch` holds what the policy perceives: `observation.state` (B, S), `observation.images.<camera>` (B, 3, h, w),
        and `task`, B strings. Raises ValueError for observations that do not fit (see `_seen`).
        """
        with torch.inference_mode(False):  # the agent stores its decisions and modifies them later
            return self.agent.act(self._seen(batch, "steps")).to(self.config.device)

    def predict_action_chunk(self, batch: dict, **kwargs) -> Float[Tensor, "B T A"]:
        """Return the actions up to the next decision, from a fresh decision that does not disturb `select_action`.

        Earlier frames are unknown, so that a camera shows no motion, as at the start of an episode. Raises ValueError
        for a policy with joined tokens: where they would continue from is unknown.
        """
        if self.config.model.token.joined:
            raise ValueError(
                "policy.model.token.joined: a chunk does not know what was done before; select_action does"
            )
        with torch.inference_mode(False):
            own = torch.Generator().set_state(self.generator.get_state())
            agent = self._agent(own)
            seen = agent.frames.see(self._seen(batch, "chunks"))
            return agent.decide(seen).actions.to(self.config.device)

    def _seen(self, batch: dict, counted: str) -> Observation:
        """Return what the policy perceives of the current batch; `counted`: what a call is, "steps" or "chunks".

        Raises ValueError if a policy that was trained on a task gets other observations than the task's (LeRobot's
        commands pass a robot's observations on unchanged, and take the actions for joint targets), and where `_look`
        does.
        """
        config = self.config
        try:
            seen = perceived(batch, self.model.senses)
            if config.task and (wrong := unlike(batch, self.model.senses)):
                raise UserError(wrong)
        except UserError as error:
            made = f" ({config.task['name']}; on an arm semagram-run runs it)" if config.task else ""
            raise UserError(f"{error}{made}") from error
        self._note_missing(seen, batch)
        if not config.task:
            self._look(seen, counted)
        return seen

    def _note_missing(self, seen: Observation, batch: dict) -> None:
        """Warn once about each sense that is absent, or whose frames or words are missing for the whole batch."""
        for key, present in seen.present.items():
            if not bool(present.any()) and key not in self._missed:
                self._missed.add(key)
                why = "shows nothing" if (TASK if key == LANGUAGE_KEY else key) in batch else "not there"
                warnings.warn(f"{key}: {why}; it counts as missing", stacklevel=2)

    def _look(self, seen: Observation, counted: str) -> None:
        """Raise ValueError if a robot has seen nothing for more than BLIND steps: its actions would mean nothing."""
        there = torch.stack([here for key, here in seen.present.items() if shows_scene(key)]).any(0)
        before = self._blind.get(counted, torch.zeros(0))
        before = before if len(before) == len(there) else torch.zeros(len(there))
        blind = self._blind[counted] = torch.where(there, 0.0, before + 1)
        if bool((blind > BLIND).any()):
            shown = ", ".join(filter(shows_scene, seen.present))
            raise ValueError(f"nothing to be seen for {BLIND} {counted} ({shown}), and there is no other sense")

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch of recorded windows, and its parts by name.

        `observation.state` (B, T, S) and `observation.images.<camera>` (B, T, 3, h, w) at the T steps of
        `observation_delta_indices`, and `action` (B, H L, A) in [-1, 1], each with its `_is_pad`, True beyond the ends
        of an episode; `task`, B strings. In training mode, a policy that planned or belonged to a task no longer does
        from then on. Raises ValueError for another size or range.
        """
        if self.training and (self.config.planned or self.config.task):
            self.config.planned, self.config.task = False, {}
            self.config.model = replace(self.config.model, token=replace(self.config.model.token, joined=False))
            self.model.config = self.config.model  # recorded actions are absolute positions
            self.agent = self._agent()
        steps, most = self.config.horizon, float(batch[ACTION].abs().max())
        if not most <= 1.001:
            raise UserError(f"{ACTION}: {most:.3g} after LeRobot's normalisation, which should leave none beyond 1")
        actions = batch[ACTION].unflatten(1, (steps, -1))
        here = ~batch[f"{ACTION}_is_pad"].unflatten(1, (steps, -1)).any(-1)
        index = {step: at for at, step in enumerate(self.config.observation_delta_indices)}
        moments = [[index[step] for step in moment] for moment in self.config.moments]
        seen = perceived(batch, self.model.senses, wordless=True)
        some = next(key for key in self.config.senses if key in batch)
        there = ~batch[f"{some}_is_pad"][:, [moment[0] for moment in moments[1:]]]
        self._note_missing(seen, batch)
        known = self.agent.sentences
        if known is not None:
            seen = seen.with_values({LANGUAGE_KEY: recognised(seen.values[LANGUAGE_KEY], known)})  # as when acting
        seen = self._augmented(at_moments(seen, moments))
        windows = ImitationBatch(
            seen=seen,
            keep=self._kept(seen),
            token=self.curve.encode(actions.cpu()).to(actions.device).movedim(1, 0),
            whole=here.movedim(1, 0).float(),
            followed=(here & there).movedim(1, 0).float(),
        )
        total, parts = imitation_loss(self.model, windows, self.config.consistency)
        return total, {name: float(value) for name, value in parts.items()}

    def _augmented(self, seen: Observation) -> Observation:
        """In training mode, shift the frames at random; otherwise return `seen` unchanged."""
        pixels, draw = self.config.shift, torch.default_generator
        if not self.training:
            return seen
        moved = {
            key: shift(x.flatten(0, 1), pixels, draw).view_as(x) for key, x in seen.values.items() if is_image(key)
        }
        return seen.with_values(moved)

    def _kept(self, seen: Observation) -> Float[Tensor, "B n"]:
        """Return 1 for each sense that is not hidden from a window (sense dropout, in training mode only), else 0."""
        there = seen.map(lambda x: x[0]).to(self.model.device).presence
        if not self.training or len(self.config.senses) == 1:
            return torch.ones_like(there)
        return sense_dropout_mask(there, self.model.shows, self.config.dropout, torch.default_generator)

    def get_optim_params(self) -> list[torch.nn.Parameter]:
        """Return all parameters."""
        return list(self.parameters())

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint's own files and their manifest, as semagram-train does."""
        self.config._save_pretrained(save_directory)
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
        return model
