"""Semagram's tasks as a LeRobot environment type, `--env.type=semagram --env.task=so101-touch`, in LeRobot's format."""

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from envs.cameras import frame
from envs.make import ENDLESS, make
from envs.senses import IMAGE_SIZE, STATE_NAME, Senses, check_image_size
from envs.settings import TaskConfig
from envs.task_env import by_key
from sim.renderer import RenderingUnavailable
from sim.variation import PRESETS, Variation
from worldmodel.errors import UserError
from worldmodel.senses import IMAGE_KEY_PREFIX, STATE_KEY, key

AGENT_POS, PIXELS = "agent_pos", "pixels"

OWN = [each for each in fields(TaskConfig) if each.name != "name"]  # LeRobot calls the name `task`
DEFAULTS = [field(default=each.default, default_factory=each.default_factory) for each in OWN]
TaskKeys = make_dataclass("TaskKeys", [(each.name, each.type, own) for each, own in zip(OWN, DEFAULTS, strict=True)])


@EnvConfig.register_subclass("semagram")
@dataclass
class SemagramEnv(TaskKeys, EnvConfig):  # type: ignore[valid-type, misc]  # a base made at run time
    """LeRobot's configuration of a task, with semagram-train's keys (`--env.max_control_steps` for `task.max_...`).

    `randomise`: off, mild or strong. `senses`, `image_size`: what is observed, as in semagram-train; the sentence is
    always available, as LeRobot's task description. Video frames are `height` x `width` pixels.
    """

    task: str | None = "so101-touch"
    randomise: str = "off"
    senses: list[str] = field(default_factory=lambda: [STATE_NAME])
    image_size: int = IMAGE_SIZE
    height: int = 240
    width: int = 320

    def __post_init__(self):
        """Build the task once to read its sizes. Raises ValueError, one line, if it cannot be made."""
        if self.randomise not in PRESETS:
            raise UserError(f"env.randomise={self.randomise}: one of {', '.join(PRESETS)}")
        if self.task == "multi":
            raise UserError("env.task=multi: one of its tasks at a time, e.g. --env.task=walker-walk")
        senses = self.perceived
        if self.image_size != IMAGE_SIZE:
            check_image_size(self.senses)
        states, actions, rate_hz = _sizes(self.settings, senses)
        self.fps = round(rate_hz)
        self.features = {ACTION: PolicyFeature(FeatureType.ACTION, (actions,))}
        self.features_map = {ACTION: ACTION}
        if states:
            self.features[AGENT_POS] = PolicyFeature(FeatureType.STATE, (states,))
            self.features_map[AGENT_POS] = OBS_STATE
        for camera, size in senses.sizes.items():
            name = f"{PIXELS}/{camera}"
            self.features[name] = PolicyFeature(FeatureType.VISUAL, (*size, 3))
            self.features_map[name] = key(f"images.{camera}")

    @property
    def settings(self) -> TaskConfig:
        """The task's settings. Raises ValueError, one line, if they are not valid."""
        if self.task is None:
            raise UserError("env.task=: a task is needed, e.g. --env.task=walker-walk")
        return TaskConfig(self.task, **{each.name: getattr(self, each.name) for each in OWN})

    @property
    def perceived(self) -> Senses:
        """The observed senses."""
        return Senses(self.senses, self.image_size)

    @property
    def gym_kwargs(self) -> dict:
        """Empty: `create_envs` does not look up a Gymnasium id, so it needs no keyword arguments."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """Create a vector of `n_envs` environments of the task, stepped serially or in one process each."""
        film = (self.height, self.width)
        one = functools.partial(make_view, self.settings, PRESETS[self.randomise], self.perceived, film)
        again = AutoresetMode.SAME_STEP
        vector: VectorEnv
        if use_async_envs and n_envs > 1:
            vector = AsyncVectorEnv([one] * n_envs, context="spawn", autoreset_mode=again)
        else:
            vector = SyncVectorEnv([one] * n_envs, autoreset_mode=again)
        return {self.type: {0: vector}}


@functools.cache
def _sizes(task: TaskConfig, senses: Senses) -> tuple[int, int, float]:
    """Return the state size (0 if it is not observed), the action size and the control steps per second."""
    env = make(task, senses=senses)
    try:
        states = spaces.flatdim(by_key(env)[OBS_STATE]) if senses.state else 0
        return states, spaces.flatdim(env.action_space), env.metadata["render_fps"]
    finally:
        env.close()


class LeRobotView(gymnasium.Wrapper):
    """Rename observations for LeRobot, and always set `info["is_success"]`.

    Of the senses that `env` observes: `agent_pos` (S,), which LeRobot maps to `observation.state`, and `pixels`, a Dict
    of the cameras' frames (H, W, 3) uint8, which it maps to `observation.images.<camera>`.

    LeRobot reads the attributes `task`, `task_description` and `_max_episode_steps`.
    """

    def __init__(self, env: gymnasium.Env, task: str, words: str, size: tuple[int, int]):
        super().__init__(env)
        self.observation_space = spaces.Dict(self._renamed(by_key(env), spaces.Dict))
        self.task, self.task_description, self._size = task, words, size
        self.metadata = {**env.metadata, "render_fps": round(env.metadata["render_fps"])}  # PyAV rejects floats
        self._max_episode_steps = env.metadata["episode_limit"] or ENDLESS

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; `options` is ignored."""
        observation, info = self.env.reset(seed=seed)
        return self._renamed(observation), self._judge(info)

    def step(self, action: np.ndarray):
        """Advance one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._renamed(observation), reward, terminated, truncated, self._judge(info)

    def render(self) -> np.ndarray:
        """Render a frame (height, width, 3) uint8: black, with a warning, if nothing can be drawn."""
        try:
            return frame(self.env, *self._size)
        except RenderingUnavailable as error:
            warnings.warn(f"no video: {error}", stacklevel=2)
            return np.zeros((*self._size, 3), np.uint8)

    @staticmethod
    def _renamed(observation: Mapping, together: Callable = dict) -> dict:
        """Convert an observation, or an observation space, to LeRobot's names."""
        parts = dict(observation.items())
        images = {name: each for name, each in parts.items() if name.startswith(IMAGE_KEY_PREFIX)}
        frames = {name.removeprefix(IMAGE_KEY_PREFIX): each for name, each in images.items()}
        state = {"agent_pos": parts[STATE_KEY]} if STATE_KEY in parts else {}
        return state | ({"pixels": together(frames)} if frames else {})

    @staticmethod
    def _judge(info: dict) -> dict[str, bool]:
        return {"is_success": bool(info.get("is_success", False))}


def make_view(task: TaskConfig, variation: Variation, senses: Senses, size: tuple[int, int]) -> gymnasium.Env:
    """Create the environment of a task for LeRobot; `size` is the height and width of its video frames."""
    nameless = task.name == "gym" and not task.instruction
    words = task.label.replace("-", " ") if nameless else task.words
    env = make(task, render=True, variation=variation, senses=senses)
    return LeRobotView(env, task.label, words, size)
