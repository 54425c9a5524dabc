"""How finely MuJoCo cuts up what it draws, for small frames, where a facet is less than a pixel.

On llvmpipe the corners are what a small frame's time goes into. In ms of one core at 64 x 64 pixels, without and with:
ball-in-cup 4.9 and 1.3, walker 1.9 and 0.9, humanoid 5.5 and 1.2, the SO-101 3.6 and 0.9 (MuJoCo cuts its table, which
has no end, into 40,000 squares).
"""

import contextlib
from collections.abc import Iterator

import mujoco
import numpy as np

SMALL = 128
"""The longest side of a frame, in pixels, that is drawn coarsely."""
SMOOTH = 2
"""A small frame is drawn so many times as high and wide, and each pixel is the mean. That costs less here than OpenGL's
multisampling, and shows what is thinner than a pixel or moves by less."""
SLICES, STACKS = 10, 4  # of a sphere, a capsule or a cylinder
ENDLESS = 8.0  # half the side of a plane without end, in sizes of the model
SQUARES = 64  # along such a plane; it is lit at their corners
MOST = 100  # squares along the longer side of any plane, if it is as long the other way
CUT = 200  # MuJoCo's own most, along either side


@contextlib.contextmanager
def coarse(model: mujoco.MjModel) -> Iterator[None]:
    """A context for drawing that is made in here cuts the model up coarsely; the model itself stays as it is."""
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
    """A plane's (half length, half width, side of its squares), so that there are not too many."""
    if not size[:2].all():
        half = ENDLESS * extent
        return np.array([half, half, 2 * half / SQUARES])
    squares = np.clip(np.ceil(2 * size[:2] / size[2]), 1, CUT)
    if squares.prod() <= MOST**2:
        return size
    return np.array([*size[:2], max(2 * size[:2].max() / MOST, size[2])])
