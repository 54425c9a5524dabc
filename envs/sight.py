"""An environment's observation as the chosen senses: its state, what its cameras see, or both."""

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.cameras import views
from envs.faults import EnvironmentFault
from envs.rendering import own, physics, resized
from envs.senses import STATE, Senses, key
from envs.settings import TaskConfig
from sim.canvas import Canvas, RenderingUnavailable


class Sight(gymnasium.ObservationWrapper):
    """Observations: a Dict of `observation.images.<camera>`, Box (size, size, 3) uint8, and the state if it is chosen.

    A frame is drawn once a decision and shows the state at its end. MuJoCo's are drawn here, all cameras in one
    context; others draw themselves.

    Raises:
        ValueError: a camera that is not there, or nothing can be drawn; one line.
        EnvironmentFault: from `reset` or `step`, where the frames that the environment draws change their size.
    """

    def __init__(self, env: gymnasium.Env, task: TaskConfig, senses: Senses):
        super().__init__(env)
        self._label, self._senses = task.label, senses
        known = views(task, env)
        for camera in senses.cameras:
            if camera not in known:
                raise ValueError(
                    f"senses=images.{camera}: {task.label} has no such camera; it has {', '.join(sorted(known))}"
                )
        self._views = {camera: known[camera] for camera in senses.cameras}
        self._canvas: Canvas | None = None
        self._drawn: tuple[int, ...] = ()  # the size at which the environment draws itself
        try:
            if physics(env.unwrapped)[0] is not None:
                self._paper()
            else:
                env.reset()
                self._drawn = own(env).shape
        except RenderingUnavailable as error:
            raise ValueError(f"senses=images.{senses.cameras[0]}: {error}") from error
        parts = {key(STATE): env.observation_space[key(STATE)]} if senses.state else {}
        for camera in senses.cameras:
            parts[key(f"images.{camera}")] = spaces.Box(0, 255, (senses.size, senses.size, 3), np.uint8)
        self.observation_space = spaces.Dict(parts)

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chosen senses of now."""
        seen = {key(STATE): observation[key(STATE)]} if self._senses.state else {}
        for camera in self._senses.cameras:
            seen[key(f"images.{camera}")] = self._look(camera)
        return seen

    def close(self) -> None:
        """Close the environment, and free what OpenGL holds."""
        if self._canvas is not None:
            self._canvas.close()
        super().close()

    def _look(self, camera: str) -> np.ndarray:
        model, data = physics(self.env.unwrapped)
        if model is not None:
            canvas = self._paper()
            canvas.look(self._views[camera])
            return canvas.draw(data)
        pixels = own(self.env)
        if pixels.shape != self._drawn:
            raise EnvironmentFault(
                f"{self._label}: images.{camera} is {pixels.shape} now, it was {self._drawn}; a camera keeps its size"
            )
        return resized(pixels, self._senses.size, self._senses.size)

    def _paper(self) -> Canvas:
        """The canvas of the model, which some environments make anew."""
        model, _ = physics(self.env.unwrapped)
        if self._canvas is None or self._canvas.model is not model:
            self._canvas = Canvas(model, self._senses.size, self._senses.size)
        return self._canvas
