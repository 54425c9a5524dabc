"""Observations made of the chosen senses: the state, camera frames, or both."""

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.cameras import views
from envs.faults import EnvironmentFault
from envs.missing import Observation
from envs.pictures import Pictures
from envs.rendering import own, physics
from envs.senses import MAIN, Senses
from envs.settings import TaskConfig
from envs.space_checks import by_key
from sim.canvas import Canvas, RenderingUnavailable
from sim.frames import resized
from worldmodel.mistakes import Mistake
from worldmodel.senses import STATE_KEY, key


class SenseWrapper(gymnasium.ObservationWrapper):
    """Make observations a Dict of `observation.images.<camera>`, Box (H, W, 3) uint8, and the state if chosen.

    Each frame is drawn once per control step and shows the state at its end. MuJoCo scenes are drawn here, with one
    rendering context per frame size; other environments render themselves. The images that the environment itself
    observes (`pictures`) are cameras too; the first also serves as `main` if nothing else can be rendered.

    Raises:
        ValueError: for a camera that does not exist, or if nothing can be rendered; one line.
        EnvironmentFault: from `reset` or `step`, if frames that the environment supplies change their size.
    """

    def __init__(self, env: gymnasium.Env, task: TaskConfig, senses: Senses, pictures: Pictures | None = None):
        super().__init__(env)
        self._label, self._senses, self._pictures = task.label, senses, pictures
        shapes = pictures.shapes if pictures else {}
        self._observed = {name: name for name in shapes}  # camera to image name
        if pictures and physics(env.unwrapped)[0] is None and env.render_mode != "rgb_array":
            self._observed.setdefault(MAIN, next(iter(shapes)))
        self._drawn = {camera: shapes[name] for camera, name in self._observed.items()}  # not drawn by us
        known = views(task, env) | dict.fromkeys(self._drawn)
        for camera in senses.cameras:
            if camera not in known:
                raise Mistake(
                    f"senses=images.{camera}: {task.label} has no such camera; it has {', '.join(sorted(known))}"
                )
        self._views = {camera: known[camera] for camera in senses.cameras}
        self._canvases: dict[tuple[int, int], Canvas] = {}  # by (height, width)
        try:
            for camera, size in senses.sizes.items():
                if camera in self._drawn:
                    continue
                if physics(env.unwrapped)[0] is not None:
                    self._paper(size)
                else:
                    env.reset()
                    self._drawn[MAIN] = own(env).shape
        except RenderingUnavailable as error:
            raise Mistake(f"senses=images.{senses.cameras[0]}: {error}") from error
        parts = {STATE_KEY: by_key(env)[STATE_KEY]} if senses.state else {}
        for camera, size in senses.sizes.items():
            parts[key(f"images.{camera}")] = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(parts)

    def observation(self, observation: Observation) -> Observation:
        """Return the chosen senses at the current control step."""
        seen = {STATE_KEY: observation[STATE_KEY]} if self._senses.state else {}
        for camera in self._senses.cameras:
            seen[key(f"images.{camera}")] = self._look(camera)
        return seen

    def close(self) -> None:
        """Close the environment and free its OpenGL resources."""
        for canvas in self._canvases.values():
            canvas.close()
        super().close()

    def _look(self, camera: str) -> np.ndarray:
        if camera not in self._drawn:
            canvas = self._paper(self._senses.sizes[camera])
            canvas.look(self._views[camera])
            return canvas.draw(physics(self.env.unwrapped)[1])
        before = self._drawn[camera]
        if self._pictures is not None and camera in self._observed:
            pixels = self._pictures.newest[self._observed[camera]]
        else:
            pixels = own(self.env)
        if pixels.shape != before:
            raise EnvironmentFault(
                f"{self._label}: images.{camera} is {pixels.shape} now, it was {before}; a camera keeps its size"
            )
        return resized(pixels, *self._senses.sizes[camera])

    def _paper(self, size: tuple[int, int]) -> Canvas:
        """Return the canvas for `size` (height, width), remade if the environment has rebuilt its model."""
        model, _ = physics(self.env.unwrapped)
        if size not in self._canvases or self._canvases[size].model is not model:
            self._canvases[size] = Canvas(model, *size)
        return self._canvases[size]
