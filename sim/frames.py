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


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle of a frame (H, W, 3), as (size, size, 3)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[top : top + side, left : left + side]
    return middle if side == size else resized(middle, size, size)


def shows(pixels: np.ndarray) -> bool:
    """Whether there is more in a frame than one colour, which is all that a loose cable gives."""
    return int(pixels.max()) - int(pixels.min()) > CONTRAST
