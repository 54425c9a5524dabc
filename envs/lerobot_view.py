"""Adapt our environments to the interface that LeRobot's evaluation expects."""

import warnings
from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import make as tasks
from envs.cameras import RenderingUnavailable, frame
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.spaces import by_key
from sim.variation import Variation
from worldmodel.senses import IMAGE_KEY_PREFIX, STATE_KEY


class LeRobotView(gymnasium.Wrapper):
    """Rename observations for LeRobot, and always set `info["is_success"]`.

    Of the senses that `env` observes: `agent_pos` (S,), which LeRobot maps to `observation.state`, and `pixels`, a Dict
    of the cameras' frames (H, W, 3) uint8, which it maps to `observation.images.<camera>`.

    LeRobot reads the attributes `task`, `task_description` and `_max_episode_steps`.
    """

    def __init__(self, env: gymnasium.Env, task: str, words: str, size: tuple[int, int]):
        super().__init__(env)
        self.observation_space = spaces.Dict(self._see(by_key(env), spaces.Dict))
        self.task, self.task_description, self._size = task, words, size
        self.metadata = {**env.metadata, "render_fps": round(env.metadata["render_fps"])}  # PyAV rejects floats
        self._max_episode_steps = tasks.episode_limit(env) or tasks.ENDLESS

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; `options` is ignored."""
        observation, info = self.env.reset(seed=seed)
        return self._see(observation), self._judge(info)

    def step(self, action: np.ndarray):
        """Advance one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._see(observation), reward, terminated, truncated, self._judge(info)

    def render(self) -> np.ndarray:
        """Render a frame (height, width, 3) uint8: black, with a warning, if nothing can be drawn."""
        try:
            return frame(self.env, *self._size)
        except RenderingUnavailable as error:
            warnings.warn(f"no video: {error}", stacklevel=2)
            return np.zeros((*self._size, 3), np.uint8)

    @staticmethod
    def _see(observation: Mapping, together: Callable = dict) -> dict:
        """Convert an observation, or an observation space, to LeRobot's names."""
        parts = dict(observation.items())
        images = {name: each for name, each in parts.items() if name.startswith(IMAGE_KEY_PREFIX)}
        frames = {name.removeprefix(IMAGE_KEY_PREFIX): each for name, each in images.items()}
        state = {"agent_pos": parts[STATE_KEY]} if STATE_KEY in parts else {}
        return state | ({"pixels": together(frames)} if frames else {})

    @staticmethod
    def _judge(info: dict) -> dict[str, bool]:
        return {"is_success": bool(info.get("is_success", False))}


def make(task: TaskConfig, variation: Variation, senses: Senses, size: tuple[int, int]) -> gymnasium.Env:
    """Create the environment of a task for LeRobot; `size` is the height and width of its video frames."""
    unsaid = task.name == "gym" and not task.instruction
    words = task.label.replace("-", " ") if unsaid else task.words
    env = tasks.make(task, render=True, variation=variation, senses=senses)
    return LeRobotView(env, task.label, words, size)
