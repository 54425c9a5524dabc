"""Coarser tessellation of MuJoCo's geometry for small frames, in which a facet is smaller than a pixel.

On llvmpipe, vertices dominate the time of a small frame. Milliseconds on one core at 64 x 64 pixels, without and with:
ball-in-cup 4.9 and 1.3, walker 1.9 and 0.9, humanoid 5.5 and 1.2, the SO-101 3.6 and 0.9 (MuJoCo divides its infinite
table into 40,000 squares).
"""

import contextlib
from collections.abc import Iterator

import mujoco
import numpy as np

SMALL = 128
"""Longest side, in pixels, of a frame that is drawn coarsely."""
SMOOTH = 2
"""Supersampling factor of a small frame, per side; each pixel is a mean. That costs less here than OpenGL's
multisampling, and shows features and movements smaller than a pixel."""
SLICES, STACKS = 10, 4  # of a sphere, a capsule or a cylinder
ENDLESS = 8.0  # half the side of an infinite plane, in extents of the model
SQUARES = 64  # per side of such a plane; lighting is computed at their corners
MOST = 100  # a plane of more than MOST**2 squares gets only MOST along its longer side
CUT = 200  # MuJoCo's own maximum along either side


@contextlib.contextmanager
def coarse(model: mujoco.MjModel) -> Iterator[None]:
    """Context in which a newly created MjrContext tessellates the model coarsely; the model is restored on exit."""
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
