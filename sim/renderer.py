"""Frames (H, W, 3) uint8: fast rendering of MuJoCo models without a screen or a GPU; resizing, cropping, blank ones.

Measured on llvmpipe (one core): shadows, reflections, multisampling and fine meshes dominate the time of a frame;
without them a frame at 240 x 320 takes milliseconds. In a small one vertices dominate, so it is drawn with coarse
geometry, whose facets are smaller than a pixel. Milliseconds at 64 x 64, without and with: ball-in-cup 4.9 and 1.3,
walker 1.9 and 0.9, humanoid 5.5 and 1.2, the SO-101 3.6 and 0.9 (MuJoCo divides its infinite table into 40,000
squares).
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import sys
import textwrap
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

CONTEXTS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
SMALL = 128  # longest side, in pixels, of a frame that is drawn coarsely
SMOOTH = 2
"""Supersampling factor of a small frame, per side; each pixel is a mean. That costs less here than OpenGL's
multisampling, and shows features and movements smaller than a pixel."""
SLICES, STACKS = 10, 4  # of a sphere, a capsule or a cylinder
ENDLESS = 8.0  # half the side of an infinite plane, in extents of the model
SQUARES = 64  # per side of such a plane; lighting is computed at their corners
MOST = 100  # a plane of more than MOST**2 squares gets only MOST along its longer side
CUT = 200  # MuJoCo's own maximum along either side
CONTRAST = 8
"""Largest difference (of 255) between a frame's brightest and darkest values that may be camera noise alone."""
INSTALL = "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri"


class RenderingUnavailable(RuntimeError):
    """No frame can be rendered; the message says why, and on machines without OpenGL what to install."""


def choose_backend() -> str:
    """Return MuJoCo's rendering backend: MUJOCO_GL if valid, else on Linux the first of `egl` and `osmesa` that loads.

    Returns `disabled` if neither loads or MUJOCO_GL says so; without MUJOCO_GL, `cgl` on macOS and `glfw` elsewhere.
    """
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


GROUPS = (0, 1, 2)


@dataclass(frozen=True)
class View:
    """A viewpoint: a `camera` of the model by name, or a free camera `distance` metres from the point `lookat` (3,).

    `azimuth` and `elevation` are in degrees, in MuJoCo's convention. `groups`: the geometry groups to draw; the default
    suits the arm and omits its fine meshes, GROUPS is MuJoCo's own default.
    """

    camera: str = ""
    lookat: tuple[float, ...] | np.ndarray = (0.0, 0.0, 0.0)
    distance: float = 1.0
    azimuth: float = 90.0
    elevation: float = -45.0
    groups: tuple[int, ...] = (0, 1, 3)


class Canvas:
    """Renders a MuJoCo model from `view`, else its first or MuJoCo's free camera, by its state alone."""

    def __init__(self, model, height: int, width: int, view: View | None = None):
        """Create a rendering context. Raises RenderingUnavailable if that fails."""
        backend = choose_backend()
        if backend == "disabled":
            setting = os.environ.get("MUJOCO_GL")
            why = f"MUJOCO_GL={setting}" if setting else f"neither EGL nor OSMesa is installed; {INSTALL}"
            raise RenderingUnavailable(f"nothing can be drawn: {why}")
        import mujoco

        small = max(height, width) <= SMALL
        self._smooth = SMOOTH if small else 1
        self._rectangle = mujoco.MjrRect(0, 0, self._smooth * width, self._smooth * height)
        shape = self._rectangle.width, self._rectangle.height
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = max(shape[0], model.vis.global_.offwidth)
        model.vis.global_.offheight = max(shape[1], model.vis.global_.offheight)
        os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe: draw in the calling thread
        try:
            self._context = importlib.import_module(CONTEXTS[backend]).GLContext(*shape)
            self._context.make_current()
            with coarse(model) if small else contextlib.nullcontext():
                self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # PyOpenGL's errors can't be imported before MuJoCo has chosen its platform
            why = textwrap.shorten(str(error), 100)
            raise RenderingUnavailable(f"nothing can be drawn: {backend} does not start ({why}); {INSTALL}") from error
        _open.add(self)
        _close_at_exit()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._terrain = model.hfield_data.copy()
        self.model, self.size = model, (height, width)
        self.look(view)

    def look(self, view: View | None) -> None:
        """Set the viewpoint of the next frames. Raises KeyError for a camera that the model does not have."""
        import mujoco

        mujoco.mjv_defaultOption(self._option)
        self._option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = 0  # as in dm_control
        if view is None:
            mujoco.mjv_defaultFreeCamera(self.model, self._camera)
            if self.model.ncam:
                self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
            return
        if view.camera:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = self.model.camera(view.camera).id
        else:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FREE, -1
            self._camera.lookat[:] = view.lookat
            self._camera.distance = view.distance
            self._camera.azimuth, self._camera.elevation = view.azimuth, view.elevation
        self._option.geomgroup[:] = [group in view.groups for group in range(len(self._option.geomgroup))]

    def draw(self, data) -> np.ndarray:
        """Render the state in `data` as a frame (H, W, 3) uint8."""
        import mujoco

        self._context.make_current()
        if self.model.nhfield and not np.array_equal(self._terrain, self.model.hfield_data):
            self._terrain = self.model.hfield_data.copy()  # some tasks generate terrain per episode
            for field in range(self.model.nhfield):
                mujoco.mjr_uploadHField(self.model, self._drawing, field)
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        # MuJoCo centres infinite planes under the scene's camera: without this, under that of the previous frame.
        mujoco.mjv_updateCamera(self.model, data, self._camera, self._scene)
        mujoco.mjv_updateScene(self.model, data, self._option, None, self._camera, every, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._drawing)
        pixels = np.empty((self._rectangle.height, self._rectangle.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rectangle, self._drawing)
        if self._smooth > 1:
            pixels = np.asarray(Image.fromarray(pixels).reduce(self._smooth))
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Free the OpenGL resources; nothing can be drawn afterwards."""
        if hasattr(self, "_drawing"):
            self._context.make_current()
            self._drawing.free()
            self._context.free()
            del self._drawing

    def __del__(self):
        self.close()


_open: "weakref.WeakSet[Canvas]" = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Register freeing all canvases at exit, after MuJoCo's own handler is registered and hence before it ends EGL."""

    @atexit.register
    def close_all() -> None:
        for canvas in [*_open]:
            canvas.close()


@contextlib.contextmanager
def coarse(model) -> Iterator[None]:
    """Context in which a newly created MjrContext tessellates the model coarsely; the model is restored on exit."""
    import mujoco

    quality, sizes = model.vis.quality, model.geom_size.copy()
    kept = quality.numslices, quality.numstacks
    quality.numslices, quality.numstacks = min(SLICES, kept[0]), min(STACKS, kept[1])
    for plane in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value):
        model.geom_size[plane] = _spaced(sizes[plane], model.stat.extent)
    try:
        yield
    finally:
        quality.numslices, quality.numstacks = kept
        model.geom_size[:] = sizes


def _spaced(size: np.ndarray, extent: float) -> np.ndarray:
    """Return a plane's (half length, half width, side of its squares), with the number of squares limited."""
    if not size[:2].all():
        half = ENDLESS * extent
        return np.array([half, half, 2 * half / SQUARES])
    squares = np.clip(np.ceil(2 * size[:2] / size[2]), 1, CUT)
    if squares.prod() <= MOST**2:
        return size
    return np.array([*size[:2], max(2 * size[:2].max() / MOST, size[2])])


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame (H, W, 1, 3 or more channels) to (height, width, 3); each pixel is the mean of those it covers."""
    pixels = np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3))
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    return np.array(picture.resize((width, height), Image.Resampling.BOX))


def middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop the largest central part of a frame (H, W, 3) with the given proportions; resize to (height, width, 3)."""
    down, right = pixels.shape[:2]
    rows = min(down, max(1, round(right * height / width)))
    columns = min(right, max(1, round(down * width / height)))
    top, left = (down - rows) // 2, (right - columns) // 2
    part = pixels[top : top + rows, left : left + columns]
    return part if part.shape[:2] == (height, width) else resized(part, height, width)


def shows(pixels: np.ndarray) -> bool:
    """Return whether a frame shows more than a single value, which is all that a loose cable gives."""
    return int(pixels.max()) - int(pixels.min()) > CONTRAST
