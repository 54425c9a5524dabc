"""Render environments without a screen or a GPU; imported only where something is drawn."""

import weakref

import gymnasium
import numpy as np

from sim.canvas import Canvas, RenderingUnavailable
from sim.frames import resized

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
