"""Frames (H, W, 3) uint8: resizing, cropping, and detecting blank ones."""

import numpy as np
from PIL import Image

CONTRAST = 8
"""Largest difference (of 255) between a frame's brightest and darkest values that may be camera noise alone."""


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame (H, W, 1, 3 or more channels) to (height, width, 3); each pixel is the mean of those it covers."""
    pixels = np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3))
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    return np.array(picture.resize((width, height), Image.Resampling.BOX))


def middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop the largest central part of a frame (H, W, 3) with the given proportions; resize to (height, width, 3)."""
    down, right = pixels.shape[:2]
    part = pixels[within(down, right, height, width)]
    return part if part.shape[:2] == (height, width) else resized(part, height, width)


def within(down: int, right: int, height: int, width: int) -> tuple[slice, slice]:
    """Return row and column slices of the largest central part of `down` x `right` pixels with ratio height:width."""
    rows = min(down, max(1, round(right * height / width)))
    columns = min(right, max(1, round(down * width / height)))
    top, left = (down - rows) // 2, (right - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def shows(pixels: np.ndarray) -> bool:
    """Return whether a frame shows more than a single value, which is all that a loose cable gives."""
    return int(pixels.max()) - int(pixels.min()) > CONTRAST
