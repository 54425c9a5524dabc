"""What an environment shows: frames drawn without a screen or a GPU, the cameras by name, and their observations.

Imported only where something is drawn.
"""

import weakref

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import suite
from envs.faults import EnvironmentFault
from envs.senses import MAIN, Senses
from envs.settings import TaskConfig
from envs.spaces import Pictures, by_key
from sim.frames import resized
from sim.renderer import GROUPS, Canvas, RenderingUnavailable, View
from worldmodel.errors import UserError
from worldmodel.senses import STATE_KEY, key

Observation = dict[str, np.ndarray]

_canvases: weakref.WeakKeyDictionary[gymnasium.Env, Canvas] = weakref.WeakKeyDictionary()


def frame(env: gymnasium.Env, height: int = 240, width: int = 320) -> np.ndarray:
    """Render the current frame of an environment made with `make(task, render=True)`: (height, width, 3) uint8.

    MuJoCo environments (the suite's, the arm's and Gymnasium's) are drawn here, from their `view` if they have one;
    others render themselves and are resized.

    Raises:
        RenderingUnavailable: if there is no graphics library or the environment cannot render; one line.
    """
    base = env.unwrapped
    model, data = physics(base)
    if model is None:
        return resized(own(env), height, width)
    canvas = _canvases.get(base)
    if canvas is None or canvas.model is not model or canvas.size != (height, width):
        canvas = _canvases[base] = Canvas(model, height, width, getattr(base, "view", None))
    return canvas.draw(data)


def physics(base: gymnasium.Env):
    """Return the MuJoCo model and data of an unwrapped environment, or (None, None) if it has none."""
    physics = getattr(base, "physics", None)
    if physics is not None:
        return physics.model.ptr, physics.data.ptr
    model, data = getattr(base, "model", None), getattr(base, "data", None)
    return (model, data) if type(model).__name__ == "MjModel" else (None, None)


def own(env: gymnasium.Env) -> np.ndarray:
    """Return the frame that an environment renders by itself. Raises RenderingUnavailable if it cannot."""
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    if env.render_mode != "rgb_array":
        raise RenderingUnavailable(f"{name} draws nothing (it has no render mode rgb_array)")
    try:
        pixels = env.render()
    except (gymnasium.error.Error, ImportError, RuntimeError, NotImplementedError) as error:
        raise RenderingUnavailable(f"{name} draws nothing: {' '.join(str(error).split())}") from error
    return np.asarray(pixels)


SECOND = {"quadruped": 2}
"""Suite domains that, following Dreamer, are learned from pixels through a camera other than their first."""


def views(task: TaskConfig, env: gymnasium.Env) -> dict[str, View | None]:
    """Return every camera's view by name; None stands for the environment's default view or its own rendering.

    `main` is the camera that pixel-based benchmarks use; the others are the arm's own views and the cameras named in
    the MuJoCo model.
    """
    base = env.unwrapped
    model, _ = physics(base)
    if model is None:
        return {MAIN: None}
    if task.is_arm:
        from sim.so101.scene import bare

        own = bare(env).views
        return {MAIN: own["side"], "front": own["side"], **own, **_named(model, own["side"].groups)}
    named = _named(model, GROUPS)
    if task.name == "gym":
        return {**named, MAIN: None}
    domain, _ = suite.find(task.name)
    main = model.camera(SECOND[domain]).name if domain in SECOND else ""
    return {**named, MAIN: named.get(main)}


def _named(model, groups: tuple[int, ...]) -> dict[str, View]:
    names = [model.camera(i).name for i in range(model.ncam)]
    return {name: View(name, groups=groups) for name in names if name}


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
                raise UserError(
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
            raise UserError(f"senses=images.{senses.cameras[0]}: {error}") from error
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
