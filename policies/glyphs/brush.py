"""The brush: outlines, in the plane, of strokes of varying width, drops and rings of ink."""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Float


def rise(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """From 0 at 0 to 1 at 1, level at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def ease(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """From 0 at 0 to 1 at 1 without a jump in slope or curvature: 6 x^5 - 15 x^4 + 10 x^3; steepest in the middle."""
    return x**3 * (x * (6 * x - 15) + 10)


def pressure(u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """How hard the brush is pressed along a stroke (0 to 1): set down quickly, lifted slowly. A beta density."""
    rising, falling = 1.1, 1.9
    top = rising / (rising + falling)
    return (u / top) ** rising * ((1 - u) / (1 - top)) ** falling


def ribbon(centre: Float[np.ndarray, "n *A 2"], half: Float[np.ndarray, " n *A"]) -> Float[np.ndarray, "m *A 2"]:
    """The outline (2n points) of a line of points, as wide as twice `half` across its direction."""
    along = np.gradient(centre, axis=0)
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    across = np.stack([-along[..., 1], along[..., 0]], -1) / np.maximum(length, 1e-12)
    side = across * half[..., None]
    return np.concatenate([centre + side, (centre - side)[::-1]])


def drop(x: float, y: float, radius: float, sides: int = 28) -> Float[np.ndarray, "n 2"]:
    """A round drop."""
    return np.array([x, y]) + radius * _round(sides)


@cache
def _round(sides: int) -> Float[np.ndarray, "n 2"]:
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def blot(text: str, x: float, y: float, radius: float) -> Float[np.ndarray, "n 2"]:
    """A drop that ran a little, as the hash of `text` says."""
    throw = thrown(text)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = radius * (
        1 + sum(throw.uniform(0, 0.05) * np.sin(k * angle + throw.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    )
    return np.stack([x + rim * np.cos(angle), y + rim * np.sin(angle)], -1)


def splash(text: str, x: float, y: float, size: float, count: int) -> list[Float[np.ndarray, "n 2"]]:
    """Drops around (x, y), where the hash of `text` throws them: the same text splashes the same way."""
    throw = thrown(text)
    result = []
    for _ in range(count):
        angle, far = throw.uniform(0, 2 * np.pi), throw.uniform(1.35, 2.2)
        radius = size * throw.uniform(0.08, 0.26) * (2.5 - far)
        result.append(drop(x + far * size * np.cos(angle), y + far * size * np.sin(angle), radius, 12))
    return result


def thrown(text: str) -> np.random.Generator:
    """Randomness that is the same for the same text, everywhere."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
