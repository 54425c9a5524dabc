"""An environment of ours as LeRobot's evaluation looks at one."""

import warnings

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import make as tasks
from envs.rendering import RenderingUnavailable, frame
from envs.settings import TaskConfig
from sim.variation import Variation

ENDLESS = 1000  # control steps, where a task has no end


class LeRobotView(gymnasium.Wrapper):
    """Observations `agent_pos` (S,), which LeRobot calls `observation.state`; `info["is_success"]` in any case.

    `task`, `task_description`, `_max_episode_steps`: what LeRobot asks an environment for.
    """

    def __init__(self, env: gymnasium.Env, task: str, words: str, size: tuple[int, int]):
        super().__init__(env)
        self.observation_space = spaces.Dict({"agent_pos": env.observation_space[tasks.STATE]})
        self.task, self.task_description, self._size = task, words, size
        self.metadata = {**env.metadata, "render_fps": round(env.metadata["render_fps"])}  # PyAV takes no float
        self._max_episode_steps = tasks.episode_limit(env) or ENDLESS

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; LeRobot's own `options` mean nothing here."""
        observation, info = self.env.reset(seed=seed)
        return self._see(observation), self._judge(info)

    def step(self, action: np.ndarray):
        """One control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._see(observation), reward, terminated, truncated, self._judge(info)

    def render(self) -> np.ndarray:
        """A frame (height, width, 3) uint8: black, with one warning, where nothing can be drawn."""
        try:
            return frame(self.env, *self._size)
        except RenderingUnavailable as error:
            warnings.warn(f"no video: {error}", stacklevel=2)
            return np.zeros((*self._size, 3), np.uint8)

    @staticmethod
    def _see(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"agent_pos": observation[tasks.STATE]}

    @staticmethod
    def _judge(info: dict) -> dict[str, bool]:
        return {"is_success": bool(info.get("is_success", False))}


def make(task: TaskConfig, variation: Variation, size: tuple[int, int]) -> gymnasium.Env:
    """The environment of a task, as LeRobot sees it; `size`: height and width of its frames."""
    unsaid = task.name == "gym" and not task.sentence
    words = task.label.replace("-", " ") if unsaid else task.words
    return LeRobotView(tasks.make(task, render=True, variation=variation), task.label, words, size)
