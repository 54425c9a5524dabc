"""Frames (H, W, 3) uint8 as arrays: brought to size, and whether they show anything."""

import numpy as np
from PIL import Image

CONTRAST = 8
"""Between the brightest and the darkest value of a frame, of 255: up to here it shows nothing but a camera's noise."""


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame (H, W, 1, 3 or more) as (height, width, 3): each pixel is the mean of those that it covers."""
    pixels = np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3))
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    return np.array(picture.resize((width, height), Image.Resampling.BOX))


def middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest part in the middle of a frame (H, W, 3) that has the proportions asked for, as (height, width, 3)."""
    part = pixels[within(*pixels.shape[:2], height, width)]
    return part if part.shape[:2] == (height, width) else resized(part, height, width)


def within(down: int, right: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest part in the middle of `down` x `right` pixels that is as `height` to `width`."""
    rows = min(down, max(1, round(right * height / width)))
    columns = min(right, max(1, round(down * width / height)))
    top, left = (down - rows) // 2, (right - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def shows(pixels: np.ndarray) -> bool:
    """Whether there is more in a frame than one colour, which is all that a loose cable gives."""
    return int(pixels.max()) - int(pixels.min()) > CONTRAST
