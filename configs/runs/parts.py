"""The working parts of a training run, from checked settings: environments, model, learner, planner, agent, trainer."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from configs.reporting import say
from configs.runs.loading import Machine, naming_plugins, prepare
from configs.runs.run_folder import leaves
from configs.schema import TrainConfig
from envs.make import ENDLESS, STATE_ALONE, make_vector
from policies.agent import Agent
from policies.guidance.judge import Judge
from policies.settings import QUANTITIES
from policies.storage.checkpoint import (
    REPLAY,
    AgentSpec,
    find_checkpoint,
    load_into,
    read_spec,
    read_tensors,
    reward_free,
)
from policies.storage.folders import check_folder
from policies.text_encoder import Words
from policies.tokens.curves import Curve
from policies.tokens.vocabulary import unfit
from policies.training.offline import OfflineTrainer
from policies.training.trainer import Trainer
from worldmodel.errors import UserError
from worldmodel.learner import Learner
from worldmodel.model import WorldModel
from worldmodel.planner import Planner
from worldmodel.replay import Replay, ReplayMismatch
from worldmodel.senses import IMAGE_KEY_PREFIX, LANGUAGE_KEY, is_image
from worldmodel.strict import ConfigError

if TYPE_CHECKING:
    from configs.runs.recordings import Recordings


SHAPES = ("senses", "action_size", "model")  # what a checkpoint's weights depend on


@dataclass(frozen=True)
class Parts:
    """What a training run works with; `instructions` are those used in training, `close` ends the environments."""

    config: TrainConfig
    machine: Machine
    env: Any
    trainer: Trainer
    instructions: tuple[str, ...]
    recordings: "Recordings | None" = None

    def evaluator(self, planned: bool, seed: int, compiled: bool = False) -> Agent:
        """Return an agent that does not explore, of averaged weights; `planned`: by the planner."""
        trainer, generator = self.trainer, torch.Generator().manual_seed(seed)
        settings = self.config.planner, trainer.step_discount, self.instructions
        return Agent.acting(trainer.learner.acting, *settings, generator, planned, compiled)

    def spec(self) -> AgentSpec:
        """Return what a checkpoint saved now is for."""
        config, trainer = self.config, self.trainer
        return AgentSpec(
            asdict(config.task),
            trainer.learner.model.senses,
            trainer.curve.action_size,
            trainer.step_discount,
            trainer.env_steps,
            config.model,
            config.planner,
            self.instructions,
            trainer.episodes.units if config.envs else {},
        )

    def recorded(self) -> dict:
        """Return what a summary says of the recordings learned from and held out; empty without any."""
        if self.recordings is None:
            return {}
        from configs.runs.held_out import HeldOut

        model = self.trainer.learner.acting
        return self.recordings.summary() | HeldOut.of(self.recordings, model, self.config.task.arm.control_hz).figures(
            model
        )

    def close(self) -> None:
        """Close the environments and end their processes."""
        self.env.close()


def build(config: TrainConfig) -> Parts:
    """Build the parts of a run, at its first step. Raises ValueError for an impossible task, device or size."""
    machine = prepare(config)
    variation, senses = config.randomise, config.perceived if config.envs else STATE_ALONE  # it need not render
    env = make_vector(config.task, max(1, config.envs), variation=variation, senses=senses, report_faults=True)
    try:
        return _built(config, machine, env)
    except BaseException:
        env.close()
        raise


def _built(config: TrainConfig, machine: Machine, env) -> Parts:
    token, senses = config.model.token, senses_of(env.single_observation_space)
    if not config.envs:
        shapes = {IMAGE_KEY_PREFIX + name: (*size, 3) for name, size in config.perceived.sizes.items()}
        state = senses if config.perceived.state else {}
        senses = dict(sorted((state | shapes).items()))  # as Gymnasium orders a space
    recordings, limit = None, env.metadata["episode_limit"]
    if config.data:
        from configs.runs.recordings import recorded

        recordings = recorded(config, senses)
    step_discount = discount_of(max(limit or ENDLESS, recordings.longest) if recordings else limit)
    if wrong := unfit(token.control_points, token.length / env.metadata["render_fps"]):
        raise UserError(f"model.token.length={token.length} model.token.control_points={token.control_points}: {wrong}")
    curve = Curve.of_token(token, env.single_action_space.shape[0])
    token_discount = token.discount(step_discount)
    with torch.random.fork_rng(devices=[]):  # the model is initialised on the CPU
        torch.manual_seed(config.seed)
        model = WorldModel(senses, curve.size, config.model)
    learner = Learner(model.to(machine.device), token_discount, config.learning, machine.compiled)

    # What explores searches in full: what is learned does not depend on the clock.
    search = replace(config.planner, anchor=0.0, deadline_ms=0.0)
    planner = Planner(learner.model, token_discount, search, machine.compiled)
    generator = torch.Generator().manual_seed(config.seed)
    agent = Agent(learner.model, curve, planner, generator, config.noise, search.replan_every)
    capacity, lags = config.replay.room(any(map(is_image, senses))), config.model.vision.frame_lags
    named = len(env.metadata[QUANTITIES]) if config.envs else 0
    replay = Replay(capacity, max(1, config.envs), senses, curve.action_size, curve.size, lags, named)
    rates = config.task.repeat, step_discount
    loop = Trainer if config.envs else OfflineTrainer
    trainer = loop(env, learner, agent, replay, config, *rates, config.replay.sampler, reward_free(asdict(config.task)))
    if recordings:
        recordings.fill(replay, model)
    instructions = tuple(part.words for part in config.task.parts) if LANGUAGE_KEY in senses else ()
    return Parts(config, machine, env, trainer, instructions, recordings)


def discount_of(limit: int | None) -> float:
    """Return the discount per control step: (n - 1) / n with n = episode length / 5, clipped to [0.95, 0.995].

    Source: TD-MPC2 (arXiv 2310.16828), appendix: the effective horizon is a fifth of an episode. `limit`: the episode's
    length in control steps; None (no limit) counts as ENDLESS.
    """
    n = (limit or ENDLESS) / 5
    return float(np.clip((n - 1) / n, 0.95, 0.995))


def senses_of(space: spaces.Dict) -> dict[str, tuple[int, ...]]:
    """Return the senses of an observation space, each with the shape in which the model receives it."""
    seen = {key: part for key, part in space.items() if not key.startswith("mask.")}
    return {key: (Words.size,) if key == LANGUAGE_KEY else part.shape or () for key, part in seen.items()}


def begin_with(parts: Parts, init: str) -> None:
    """Take a checkpoint's weights and, if it can be rewarded anew, its replay. Raises ConfigError, FolderError."""
    path = find_checkpoint(Path(init), "init")
    with naming_plugins(path):
        spec = read_spec(path)
    own, learner = parts.spec(), parts.trainer.learner
    was, now = (leaves({name: asdict(each)[name] for name in SHAPES}) for each in (spec, own))
    if other := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
        said = "; ".join(f"{name} {was.get(name)}, here {now.get(name)}" for name in other)
        raise ConfigError(f"init={init}: its weights fit another task or model ({said})")
    load_into(learner.model, path)
    with torch.no_grad():
        learner.target_flat.copy_(learner.flat[learner.value_segment])
        learner.average.copy_(learner.flat)
    why = "data= instead" if parts.recordings else _remember(parts, spec, own, path)
    held = f"its {parts.trainer.replay.steps} steps, rewarded anew" if not why else f"nothing of its steps ({why})"
    say(f"beginning with the weights of {path}, and with {held}")


def _remember(parts: Parts, spec: AgentSpec, own: AgentSpec, path: Path) -> str:
    """Take a checkpoint's replay with the rewards of this task; return why not, if not."""
    task, replay = parts.config.task, parts.trainer.replay
    judge = Judge(task.guidance, [*parts.env.metadata[QUANTITIES]])
    free = {"guidance", "reward"} if judge.own == 0 else {"guidance"}
    if spec.quantities != own.quantities or _rest(spec.task, free) != _rest(own.task, free):
        return "of another task"
    if judge.own and spec.task.get("guidance"):
        return "rewarded by a guidance"
    if not (path / REPLAY).exists():
        return "not kept"
    check_folder(path, (REPLAY,))
    try:
        replay.load_state_dict(read_tensors(path / REPLAY))
    except ReplayMismatch as error:
        return str(error)
    if task.guidance:  # a row's reward is for what the next one shows
        asked = judge.reward(replay.quantities.roll(-1, 1))
        replay.reward.mul_(judge.own).add_(task.repeat * asked)
    return ""


def _rest(task: dict, free: set[str]) -> dict:
    """Return a task without these keys and without empty values, which a file may lack; lists as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in task.items() if key not in free and v}
