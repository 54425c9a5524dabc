"""A Semagram checkpoint as a LeRobot policy: the same agent, acting and learning at LeRobot's commands."""

from pathlib import Path

import torch
from jaxtyping import Float
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from policies.agent import Agent
from policies.checkpoint import CONFIG, MODEL, load_into, versions
from policies.files import replace_file
from policies.folders import MANIFEST, check_folder, manifest, tensor_bytes
from policies.tokens import Tokens
from robot.configuration_semagram import SemagramConfig
from worldmodel.imitation import Windows, imitation_loss
from worldmodel.model import WorldModel
from worldmodel.planner import Planner


class SemagramPolicy(PreTrainedPolicy):
    """Acts token by token through the planner, or by the policy alone (`config.planned`).

    `forward` learns from recordings: the world model's dynamics, and to imitate. Neither reward nor value is learned
    from them, so what comes of it acts by the policy alone, and a checkpoint that is trained further no longer plans.
    """

    config_class = SemagramConfig
    name = "semagram"

    def __init__(self, config: SemagramConfig, dataset_stats: dict | None = None, **kwargs):
        """A new policy; `dataset_stats` say what states look like. Raises ValueError for one that cannot be."""
        super().__init__(config)
        config.validate_features()
        self.tokens = Tokens.of(config.model.token, config.action_size)
        senses = {key: tuple(shape) for key, shape in config.senses.items()}
        self.model = WorldModel(senses, self.tokens.points, config.model, self.tokens.forms)
        if dataset_stats and OBS_STATE in dataset_stats:
            seen = {name: torch.as_tensor(value) for name, value in dataset_stats[OBS_STATE].items()}
            self.model.normaliser.take(seen["mean"], seen["std"], int(seen["count"].max()))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.agent = self._agent()

    def _agent(self) -> Agent:
        config = self.config
        discounts = config.model.token.discounts(config.discount)
        planner = Planner(self.model, discounts, config.planner) if config.planned else None
        return Agent(self.model, self.tokens, planner, self.generator, every=config.planner.replan_every)

    def reset(self) -> None:
        """Forget the current tokens and plans; episodes begin."""
        self.agent.reset(torch.ones(len(self.agent.at), dtype=torch.bool))

    def select_action(self, batch: dict[str, Tensor], **kwargs) -> Float[Tensor, "B A"]:
        """The next action of each of B robots, from `observation.state` (B, S)."""
        with torch.inference_mode(False):  # the agent keeps what it decided, and changes it later
            return self.agent.act({OBS_STATE: self._state(batch)}).to(batch[OBS_STATE].device)

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs) -> Float[Tensor, "B T A"]:
        """The actions up to the next decision, decided anew; `select_action` is not disturbed."""
        with torch.inference_mode(False):
            agent = self._agent()
            agent.act({OBS_STATE: self._state(batch)})
            return agent.actions.to(batch[OBS_STATE].device)

    def _state(self, batch: dict[str, Tensor]) -> Float[Tensor, "B S"]:
        state = batch[OBS_STATE].clone()
        if state.shape[-1] != self.config.state_size:
            made = f" ({self.config.task['name']})" if self.config.task else ""
            raise ValueError(
                f"{OBS_STATE} has {state.shape[-1]} numbers here, {self.config.state_size} where this policy "
                f"was trained{made}"
            )
        return state

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of recorded windows, and its parts.

        `observation.state` (B, H+1, S) at the ends of the tokens and `action` (B, H L, A) in [-1, 1], each with its
        `_is_pad`, True beyond the end of an episode. Raises ValueError for another size or range.
        """
        if len(self.tokens.curves) > 1:
            raise ValueError("policy.model.token.shorter: recordings are learned in tokens of one length; leave it out")
        if self.training and self.config.planned:
            self.config.planned, self.config.task = False, {}
            self.agent = self._agent()
        steps, most = self.config.horizon, float(batch[ACTION].abs().max())
        if not most <= 1.001:
            raise ValueError(f"{ACTION}: {most:.3g} after LeRobot's normalisation, which should leave none beyond 1")
        actions = batch[ACTION].unflatten(1, (steps, -1))
        here = ~batch[f"{ACTION}_is_pad"].unflatten(1, (steps, -1)).any(-1)
        there = ~batch[f"{OBS_STATE}_is_pad"][:, 1:]
        windows = Windows(
            seen={OBS_STATE: self._state(batch).movedim(1, 0)},
            token=self.tokens.encode(actions.cpu(), kind=0).to(actions.device).movedim(1, 0),
            whole=here.movedim(1, 0).float(),
            followed=(here & there).movedim(1, 0).float(),
        )
        total, parts = imitation_loss(self.model, windows, self.config.consistency)
        return total, {name: float(value) for name, value in parts.items()}

    def get_optim_params(self) -> list[torch.nn.Parameter]:
        """Every weight."""
        return list(self.parameters())

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint's own files and their manifest, as semagram-train does."""
        self.config._save_pretrained(save_directory)
        weights = self.model.state_dict()
        if state_dict is not None:
            weights = {name.removeprefix("model."): value for name, value in state_dict.items()}
        files = {CONFIG: (save_directory / CONFIG).read_bytes(), MODEL: tensor_bytes(weights)}
        replace_file(save_directory / MODEL, files[MODEL])
        replace_file(save_directory / MANIFEST, manifest(files, versions()))

    @classmethod
    def _load_as_safetensor(cls, model: "SemagramPolicy", model_file: str, map_location: str, strict: bool):
        """Read the weights; refuse a file that is damaged or does not fit. Raises FolderError."""
        path = Path(model_file)
        if (path.parent / MANIFEST).exists():
            check_folder(path.parent, (CONFIG, MODEL))
        load_into(model.model, path.parent)
        return model
