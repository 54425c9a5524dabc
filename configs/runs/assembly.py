"""Build the working parts from checked settings: environments, model, learner, planner, agent, trainer."""

import ctypes
import logging
import os
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from gymnasium import spaces

from configs.runs.episodes import EvaluationEpisodes, side_by_side
from configs.schema import MachineConfig, TrainConfig
from envs.make import ENDLESS, episode_limit, make_vector
from policies.agent import Agent
from policies.storage.checkpoint import AgentSpec
from policies.text_encoder import Words
from policies.tokens.curves import Curve
from policies.tokens.vocabulary import unfit
from policies.training.trainer import Trainer
from worldmodel.errors import UserError
from worldmodel.learner import Learner
from worldmodel.model import WorldModel
from worldmodel.planner import Planner
from worldmodel.replay import Replay
from worldmodel.senses import LANGUAGE_KEY, is_image

NO_COMPILER = "no C++ compiler here (Debian, Ubuntu: apt-get install g++)"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


@dataclass(frozen=True)
class Machine:
    """The device to compute on, and whether to compile."""

    device: torch.device
    compiled: bool


def prepare(config: MachineConfig) -> Machine:
    """Set the number of threads, resolve `auto`, and return the Machine.

    Raises ValueError for a missing device or compiler, or more threads than cores. Warns if `compile=auto` finds no
    compiler.
    """
    cores = os.cpu_count() or 1
    if config.threads > cores:
        raise UserError(f"threads={config.threads}: at most {cores}, the cores of this machine")
    torch.set_num_threads(config.threads)
    keep_memory()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # else it warns at every start without CUDA
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= there:
        raise UserError(f"device={config.device}: CUDA devices here: {there}; device=cpu works")
    compiled = config.compile != "false" and compiler_works()
    if not compiled and config.compile == "true":
        raise UserError(f"compile=true: {NO_COMPILER}")
    if not compiled and config.compile == "auto":
        warnings.warn(f"{NO_COMPILER}: running at about half the speed", stacklevel=2)
    return Machine(torch.device(name), compiled)


def keep_memory() -> None:
    """Make glibc keep freed memory: each update allocates and frees a batch of frames, at a page fault per page.

    Measured: randomly shifting 1024 frames of 64 x 64 takes 8 ms with it, 24 ms without. Does nothing
    without glibc.
    """
    if sys.platform == "linux" and (tune := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        tune(M_MMAP_THRESHOLD, 1 << 25)
        tune(M_TRIM_THRESHOLD, 1 << 30)


def compiler_works() -> bool:
    """Return whether torch.compile finds a working C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


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


@dataclass(frozen=True)
class Assembly:
    """The parts of a training run, built on first use. `close` ends the environments."""

    config: TrainConfig
    machine: Machine

    @classmethod
    def begin(cls, config: TrainConfig) -> "Assembly":
        """Build all parts of a run. Raises ValueError for an impossible task, device or size."""
        parts = cls(config, prepare(config))
        parts.trainer  # noqa: B018  built here
        return parts

    @cached_property
    def env(self):
        """The training environments."""
        config = self.config
        return make_vector(config.task, config.envs, variation=config.randomise, senses=config.perceived)

    @cached_property
    def episodes(self) -> EvaluationEpisodes:
        """The evaluation's episodes, in environments of their own."""
        config = self.config
        return EvaluationEpisodes(
            config.task,
            config.evaluation.episodes,
            side_by_side(config.planner.deadline_ms),
            variation=config.randomise,
            senses=config.perceived,
        )

    @cached_property
    def step_discount(self) -> float:
        """The discount per control step."""
        return discount_of(episode_limit(self.env))

    @cached_property
    def curve(self) -> Curve:
        """The curve that a token stands for. Raises ValueError for one outside the vocabulary, so not drawable."""
        token, rate_hz = self.config.model.token, self.env.metadata["render_fps"]
        if wrong := unfit(token.control_points, token.length / rate_hz):
            raise UserError(
                f"model.token.length={token.length} model.token.control_points={token.control_points}: {wrong}"
            )
        return Curve.of_token(token, self.env.single_action_space.shape[0])

    @cached_property
    def senses(self) -> dict[str, tuple[int, ...]]:
        """The senses of the training environments, with their shapes (`senses_of`)."""
        return senses_of(self.env.single_observation_space)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences used in training; empty for an agent without language."""
        return tuple(part.words for part in self.config.task.parts) if LANGUAGE_KEY in self.senses else ()

    @cached_property
    def learner(self) -> Learner:
        """The learner: model, target and optimiser, initialised with the seed."""
        with torch.random.fork_rng(devices=[]):  # the model is initialised on the CPU
            torch.manual_seed(self.config.seed)
            model = WorldModel(self.senses, self.curve.size, self.config.model)
        model = model.to(self.machine.device)
        return Learner(model, self.token_discount, self.config.learning, self.machine.compiled)

    @property
    def token_discount(self) -> float:
        """The discount per whole token."""
        return self.config.model.token.discount(self.step_discount)

    @cached_property
    def trainer(self) -> Trainer:
        """The training loop, at its first step."""
        config, model = self.config, self.learner.model
        generator = torch.Generator().manual_seed(config.seed)
        thorough = replace(config.planner, anchor=0.0, deadline_ms=0.0)
        every = config.planner.replan_every
        planner = Planner(model, self.token_discount, thorough, self.machine.compiled)
        agent = Agent(model, self.curve, planner, generator, config.noise, every)
        replay = Replay(
            config.replay.room(any(map(is_image, self.senses))),
            config.envs,
            self.senses,
            self.curve.action_size,
            self.curve.size,
            config.model.vision.frame_lags,
        )
        return Trainer(self.env, self.learner, agent, replay, config, config.task.repeat, self.step_discount)

    def evaluator(self, planned: bool, seed: int, compiled: bool = False) -> Agent:
        """Return an agent that does not explore and uses the averaged weights.

        `planned`: act with the planner; otherwise with the policy alone.
        """
        config, generator = self.config.planner, torch.Generator().manual_seed(seed)
        return Agent.acting(
            self.learner.acting, config, self.step_discount, self.sentences, generator, planned, compiled
        )

    def spec(self) -> AgentSpec:
        """Return what a checkpoint saved now is for."""
        return AgentSpec(
            asdict(self.config.task),
            self.senses,
            self.curve.action_size,
            self.step_discount,
            self.trainer.env_steps,
            self.config.model,
            self.config.planner,
            self.sentences,
        )

    def close(self) -> None:
        """Close the environments and end their processes."""
        self.env.close()
        if "episodes" in self.__dict__:
            self.episodes.close()
