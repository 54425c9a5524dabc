"""Frames drawn without a screen or a GPU, the cameras by name. Imported only where something is drawn."""

import weakref
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import suite
from envs.quantities import simulation
from envs.senses import MAIN, Senses
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault, at, image_paths
from sim.renderer import GROUPS, Canvas, RenderingUnavailable, View, resized
from worldmodel.errors import UserError
from worldmodel.senses import key

CHANNELS = (1, 3)
UNAVAILABLE = (gymnasium.error.Error, ImportError, RuntimeError, NotImplementedError)
"""What an environment raises that cannot draw here."""
SECOND = {"quadruped": 2}
"""Suite domains that, following Dreamer, are learned from pixels through a camera other than their first."""

_canvases: weakref.WeakKeyDictionary[gymnasium.Env, dict[tuple[int, int], Canvas]] = weakref.WeakKeyDictionary()


def frame(env: gymnasium.Env, height: int = 240, width: int = 320) -> np.ndarray:
    """Render the current frame of an environment made with `make(task, render=True)`: (height, width, 3) uint8.

    MuJoCo environments (the suite's, the arm's and Gymnasium's) are drawn here, from their `view` if they have one;
    others render themselves and are resized. Raises RenderingUnavailable, one line, without graphics.
    """
    if simulation(env)[0] is None:
        return resized(_rendered(env), height, width)
    return _drawn(env, (height, width), getattr(env.unwrapped, "view", None))


def _canvas(env: gymnasium.Env, size: tuple[int, int]) -> Canvas:
    """Return the environment's canvas for `size` (height, width), remade if it has rebuilt its model."""
    kept, model = _canvases.setdefault(env.unwrapped, {}), simulation(env)[0]
    if size not in kept or kept[size].model is not model:
        kept[size] = Canvas(model, *size)
    return kept[size]


def _drawn(env: gymnasium.Env, size: tuple[int, int], view: View | None) -> np.ndarray:
    canvas = _canvas(env, size)
    canvas.look(view)
    return canvas.draw(simulation(env)[1])


def _rendered(env: gymnasium.Env) -> np.ndarray:
    """Return the frame that an environment renders by itself. Raises RenderingUnavailable if it cannot."""
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    if env.render_mode != "rgb_array":
        raise RenderingUnavailable(f"{name} draws nothing (it has no render mode rgb_array)")
    try:
        pixels = np.asarray(env.render())
    except (*UNAVAILABLE, EnvironmentFault) as fault:
        error = fault.__cause__ if isinstance(fault, EnvironmentFault) else fault
        if not isinstance(error, UNAVAILABLE):
            raise
        raise RenderingUnavailable(f"{name} draws nothing: {' '.join(str(error).split())}") from error
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise RenderingUnavailable(f"{name} draws nothing: its render() returned {pixels.dtype} {pixels.shape}")
    return pixels


def views(task: TaskConfig, env: gymnasium.Env) -> dict[str, View | None]:
    """Return every camera's view by name; None stands for the environment's default view or its own rendering.

    `main` is the camera that pixel-based benchmarks use; the others are the arm's own views and the cameras named in
    the MuJoCo model.
    """
    model, _ = simulation(env)
    if model is None:
        return {MAIN: None}
    names = [name for i in range(model.ncam) if (name := model.camera(i).name)]
    if task.is_arm:
        from sim.so101.scene import bare

        own = bare(env).views
        named = {name: View(name, groups=own["side"].groups) for name in names}
        return {MAIN: own["side"], "front": own["side"], **own, **named}
    named = {name: View(name, groups=GROUPS) for name in names}
    if task.name == "gym":
        return {**named, MAIN: None}
    domain, _ = suite.find(task.name)
    main = model.camera(SECOND[domain]).name if domain in SECOND else ""
    return {**named, MAIN: named.get(main)}


class Cameras:
    """The cameras among `senses`: `spaces` by observation key, each a Box (H, W, 3) uint8, and their `frames`.

    Each frame is drawn once per control step and shows the state at its end. MuJoCo scenes are drawn here, with one
    rendering context per frame size; other environments render themselves. The images that the environment itself
    observes are cameras too; the first also serves as `main` if nothing else can be rendered. `unperceived`: the names
    of those that are not among the senses. Raises ValueError, one line, for a camera that does not exist or render.
    """

    def __init__(self, env: gymnasium.Env, task: TaskConfig, senses: Senses):
        self._env, self._label, self._sizes = env, task.label, senses.sizes
        self._paths = image_paths(env.observation_space)
        for name, keys in self._paths.items():
            if (shape := at(env.observation_space, keys).shape)[2] not in CHANNELS:
                raise UserError(f"{task.label}: its picture {name} is {shape}; supported: (height, width, 1 or 3)")
        own, observed = simulation(env)[0] is None, dict(self._paths)
        if self._paths and own and env.render_mode != "rgb_array":
            self._paths.setdefault(MAIN, next(iter(self._paths.values())))
        seen = [self._paths.get(name) for name in senses.sizes]
        self.unperceived = [name for name, keys in observed.items() if keys not in seen]
        self._views = views(task, env) | dict.fromkeys(self._paths)
        self._shapes: dict[str, tuple[int, ...]] = {
            name: at(env.observation_space, keys).shape for name, keys in self._paths.items()
        }  # of the frames that are not drawn here
        for camera, size in senses.sizes.items():
            if camera not in self._views:
                raise UserError(
                    f"senses=images.{camera}: {task.label} has no such camera; it has {', '.join(sorted(self._views))}"
                )
            try:
                if camera not in self._paths and own:
                    env.reset()
                    self._shapes[camera] = _rendered(env).shape
                elif camera not in self._paths:
                    _canvas(env, size)
            except RenderingUnavailable as error:
                raise UserError(f"senses=images.{camera}: {error}") from error
        self.spaces = {
            key(f"images.{name}"): spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in self._sizes.items()
        }

    def frames(self, raw: Any) -> dict[str, np.ndarray]:
        """Return the cameras' frames now, of observation `raw`. Raises EnvironmentFault if one changes its size."""
        return {key(f"images.{camera}"): self._frame(camera, size, raw) for camera, size in self._sizes.items()}

    def close(self) -> None:
        """Free the OpenGL resources."""
        for canvas in _canvases.pop(self._env.unwrapped, {}).values():
            canvas.close()

    def _frame(self, camera: str, size: tuple[int, int], raw: Any) -> np.ndarray:
        if camera not in self._shapes:
            return _drawn(self._env, size, self._views[camera])
        pixels = np.asarray(at(raw, self._paths[camera])) if camera in self._paths else _rendered(self._env)
        if pixels.shape != (before := self._shapes[camera]):
            raise EnvironmentFault(
                f"{self._label}: images.{camera} is {pixels.shape} now, it was {before}; a camera keeps its size"
            )
        return resized(pixels, *size)
