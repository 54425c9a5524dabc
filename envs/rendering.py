"""Frames of an environment without a screen or a GPU: fast, and imported by nobody who does not draw.

Measured on llvmpipe (one core): shadows, reflections and multisampling are what a frame's time goes into;
without them a frame of a suite task at 240 x 320 takes milliseconds.
"""

import atexit
import ctypes
import functools
import importlib
import os
import sys
import textwrap
import weakref

import gymnasium
import numpy as np

CONTEXTS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
INSTALL = "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri"


class RenderingUnavailable(RuntimeError):
    """No frame can be drawn on this machine; the message says what to install."""


def choose_backend() -> str:
    """How MuJoCo draws here: MUJOCO_GL if set, else `egl` or `osmesa`, whichever loads, else `disabled`."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in CONTEXTS:
        return chosen
    if chosen in ("disable", "disabled", "off", "false", "0"):
        return "disabled"
    if sys.platform != "linux":
        return "cgl" if sys.platform == "darwin" else "glfw"
    for backend, library in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return backend
    return "disabled"


class Canvas:
    """Draws one MuJoCo model, height by width pixels, through its first camera (or from afar without one)."""

    def __init__(self, model, height: int, width: int):
        """Raise RenderingUnavailable if no context for drawing can be had."""
        import mujoco  # noqa: PLC0415

        backend = choose_backend()
        if backend == "disabled":
            setting = os.environ.get("MUJOCO_GL")
            why = f"MUJOCO_GL={setting}" if setting else f"neither EGL nor OSMesa is installed; {INSTALL}"
            raise RenderingUnavailable(f"no video: {why}")
        model.vis.quality.offsamples = 0
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        try:
            self._context = importlib.import_module(CONTEXTS[backend]).GLContext(width, height)
            self._context.make_current()
            self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # PyOpenGL's own errors can't be imported before MuJoCo has chosen its platform
            why = textwrap.shorten(str(error), 100)
            raise RenderingUnavailable(f"no video: {backend} does not start ({why}); {INSTALL}") from error
        _close_at_exit()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        if model.ncam:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        self._option = mujoco.MjvOption()
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._terrain = model.hfield_data.copy()
        self.model, self.size = model, (height, width)

    def draw(self, data) -> np.ndarray:
        """The frame (H, W, 3) uint8 of a state."""
        import mujoco  # noqa: PLC0415

        self._context.make_current()
        if not np.array_equal(self._terrain, self.model.hfield_data):  # some tasks make a new one for each episode
            self._terrain = self.model.hfield_data.copy()
            for field in range(self.model.nhfield):
                mujoco.mjr_uploadHField(self.model, self._drawing, field)
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, data, self._option, None, self._camera, every, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._drawing)
        pixels = np.empty((*self.size, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rectangle, self._drawing)
        return np.ascontiguousarray(pixels[::-1])

    def __del__(self):
        """Free what OpenGL holds for it."""
        if hasattr(self, "_drawing"):
            self._context.make_current()
            self._drawing.free()
            self._context.free()


@functools.cache
def _close_at_exit() -> None:
    """Free the canvases before MuJoCo, which has registered this when it made its first context, ends EGL."""
    atexit.register(_canvases.clear)


_canvases: weakref.WeakKeyDictionary[gymnasium.Env, Canvas] = weakref.WeakKeyDictionary()


def frame(env: gymnasium.Env, height: int = 240, width: int = 320) -> np.ndarray:
    """What an environment of `make(task, render=True)` looks like now: (height, width, 3) uint8.

    MuJoCo environments, the suite's and Gymnasium's, are drawn here; others draw themselves, and are brought
    to size by taking the nearest pixels.

    Raises:
        RenderingUnavailable: no graphics library, or the environment draws nothing; one line.
    """
    base = env.unwrapped
    model, data = _state(base)
    if model is None:
        return _resized(_own(env), height, width)
    canvas = _canvases.get(base)
    if canvas is None or canvas.model is not model or canvas.size != (height, width):
        canvas = _canvases[base] = Canvas(model, height, width)
    return canvas.draw(data)


def _state(base: gymnasium.Env):
    """The MuJoCo model and data of an environment, or None and None if it has none."""
    physics = getattr(base, "physics", None)
    if physics is not None:
        return physics.model.ptr, physics.data.ptr
    model, data = getattr(base, "model", None), getattr(base, "data", None)
    return (model, data) if type(model).__name__ == "MjModel" else (None, None)


def _own(env: gymnasium.Env) -> np.ndarray:
    """The frame that an environment draws of itself."""
    if env.render_mode != "rgb_array":
        raise RenderingUnavailable(f"no video: {env.spec.id} draws nothing (it has no render mode rgb_array)")
    try:
        pixels = env.render()
    except (gymnasium.error.Error, ImportError, RuntimeError, NotImplementedError) as error:
        raise RenderingUnavailable(f"no video: {' '.join(str(error).split())}") from error
    return np.asarray(pixels)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    return pixels[rows[:, None], columns, :3].astype(np.uint8)
