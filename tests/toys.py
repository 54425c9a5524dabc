"""Toys: an environment of a few numbers, the smallest model that has every part, and a trainer of both.

A module of its own, so that what it imports is imported after the hook that checks shapes is in place.
"""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from configs.runs.parts import senses_of
from policies.agent import Agent
from policies.settings import LoopConfig
from policies.storage.checkpoint import AgentSpec, check_resumable, restore, save_checkpoint
from policies.tokens.curves import Curve
from policies.training.trainer import Trainer
from worldmodel.learner import Learner
from worldmodel.losses import Batch
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.replay import Replay
from worldmodel.senses import is_image, stacked
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig, TokenConfig

STATE_KEY = "observation.state"


class Slide(gymnasium.Env):
    """A point pushed along a line: state (place, speed, clock); deterministic from its seed and its actions.

    `action` (2,) moves and accelerates it. With a `limit` the episode terminates off |place| > 1 and is truncated
    after `limit` steps; without one it never ends. `memory` makes no two resets alike, as in an environment that is not
    deterministic.
    """

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    resets = 0

    def __init__(self, limit: int | None = None, memory: bool = False):
        self.limit, self.memory = limit, memory

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed, self.clock, self.over = self.np_random.uniform(-0.3, 0.3), 0.0, 0, False
        if self.memory:
            Slide.resets += 1
            self.speed = 0.01 * Slide.resets
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action) and not self.over, action
        self.clock += 1
        self.speed = 0.8 * self.speed + 0.2 * float(action[1])
        self.place += 0.4 * float(action[0]) + 0.1 * self.speed + 0.05 * self.np_random.normal()
        terminated = self.limit is not None and abs(self.place) > 1
        self.place = float(np.clip(self.place, -1, 1))
        reward = 1 - self.place**2 - 0.1 * self.speed**2
        self.over = terminated or self.clock == self.limit
        return self._see(), reward, terminated, self.clock == self.limit, {}

    def _see(self):
        return {STATE_KEY: np.array([self.place, self.speed, np.sin(self.clock)], dtype=np.float32)}


def slides(*limits: int | None, memory: bool = False) -> gymnasium.vector.SyncVectorEnv:
    """A vector of Slides, one for each limit, which reset only when told to."""
    return gymnasium.vector.SyncVectorEnv(
        [functools.partial(Slide, limit, memory) for limit in limits],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )


def token_settings(length: int):
    """A token of `length` steps: an action, a straight line or a parabola."""
    knots = {1: 1, 2: 2, 4: 3}[length]
    return TokenConfig(length, knots, knots - 1)


def tiny_config(**changes):
    """The smallest model that has every part."""
    return ModelConfig(**{"latent": 16, "group": 4, "width": 16, "bins": 11, "precision": "fp32"} | changes)


def tiny_model(senses: int | dict = 3, points: int = 2, seed: int = 0, **changes):
    """A model of these senses (or so large a state) with no head still at zero; its normaliser has seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shapes = {"observation.state": (senses,)} if isinstance(senses, int) else senses
        model = WorldModel(shapes, points, tiny_config(**changes))
        for p in model.parameters():
            if not p.detach().any():
                torch.nn.init.normal_(p, std=0.1)
        model.normaliser.observe(torch.randn(20, model.state_size))
    return model


def trainer(
    env,
    length: int = 1,
    weights: int = 0,
    capacity: int = 200,
    precision: str = "fp32",
    vision=None,
    loop=None,
    **changes,
):
    """A trainer at its beginning, with tokens of this length; `changes`: of what it learns by.

    `loop`: more of the loop's own settings.

    `weights` seeds the model only: a resumed one must not depend on it.
    """
    token = token_settings(length)
    curve = Curve.of_token(token, env.single_action_space.shape[0])
    senses = senses_of(env.single_observation_space)
    sizes = {"token": token, "precision": precision} | ({"vision": vision} if vision else {})
    model = tiny_model(senses, curve.size, weights, **sizes)
    learning = LearningConfig(**{"batch_size": 8, "updates_per_token": 0.5} | changes)
    planning = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    generator = torch.Generator().manual_seed(1)
    discount = token.discount(0.9)
    planner = Planner(model, discount, planning)
    agent = Agent(model, curve, planner, generator, explore="pink")
    lags = model.config.vision.frame_lags
    named = len(env.metadata.get("quantities", ()))
    replay = Replay(capacity, env.num_envs, senses, env.single_action_space.shape[0], curve.size, lags, named)
    settings = LoopConfig(**{"steps": 1000, "seed_steps": 8, "seed": 1} | (loop or {}))
    learner = Learner(model, discount, learning)
    return Trainer(env, learner, agent, replay, settings, 2, 0.9)


def spec(of):
    """What a checkpoint of a toy trainer is for."""
    model = of.learner.model
    planning = of.agent.planner.config
    return AgentSpec(
        {"name": "slide"},
        model.senses,
        of.curve.action_size,
        of.step_discount,
        of.env_steps,
        model.config,
        planning,
        ("go on",) if "observation.language" in model.senses else (),
    )


def observed(values, senses=None, **present):
    """An observation of B environments; `senses` as the values have them, `present` by `state`, `images_front`, ..."""
    masks = {f"observation.{name.replace('_', '.', 1)}": mask for name, mask in present.items()}
    return Observation.of(senses or {key: tuple(value.shape[1:]) for key, value in values.items()}, values, masks)


def run(trainer, steps: int) -> list:
    """Train to so many control steps; the episodes that ended on the way."""
    ends = []
    while trainer.steps < steps:
        ends += trainer.step()
    return ends


def save(trainer, folder, keep: int = 99):
    """A checkpoint of a toy trainer, now."""
    return save_checkpoint(folder, spec(trainer), trainer.state_dict(), {}, keep)


def resume(path, trainer, warn=pytest.fail):
    """Bring a trainer to what a checkpoint saved."""
    check_resumable(path)
    restore(path, trainer, warn)
    return trainer


def batch(model, size: int = 6, horizon: int = 3, seed: int = 0, dtype=torch.float32):
    """Random windows: the second terminates after one token, the third is cut there, the fourth never began."""
    g, values = torch.Generator().manual_seed(seed), {}
    shapes = stacked(model.senses, len(model.config.vision.frame_lags))
    for key, shape in shapes.items():
        sizes = horizon + 1, size, *shape
        frames = torch.randint(0, 256, sizes, dtype=torch.uint8, generator=g) if is_image(key) else None
        values[key] = torch.randn(sizes, generator=g, dtype=dtype) if frames is None else frames
    token = torch.rand(horizon, size, model.points, generator=g, dtype=dtype) * 2 - 1
    reward, continues = torch.randn(horizon, size, generator=g, dtype=dtype), torch.ones(horizon, size, dtype=dtype)
    valid = torch.ones(horizon, size, dtype=dtype)
    continues[1:, 1], valid[2:, 1], valid[1:, 2], valid[:, 3] = 0, 0, 0, 0
    seen = model.preprocess(Observation.of(shapes, values))
    return Batch(seen, token, reward, continues, valid, token[0], torch.zeros(size, dtype=dtype))


tiny_keys = (
    *("model.latent=16", "model.group=4", "model.width=16", "model.bins=11", "model.precision=fp32"),
    *("learning.batch_size=8", "learning.horizon=2", "compile=false", "video=false"),
    *("planner.samples=8", "planner.policy_samples=2", "planner.elites=4", "planner.horizon=2"),
    *("seed_steps=60", "evaluation.episodes=2", "evaluation.every=400", "checkpoint.every=150"),
)
"""Keys of a command that make a run tiny."""
