"""The brush: planar outlines of strokes of varying width, drops and blots of ink."""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Float


def rise(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Rise smoothly from 0 at x <= 0 to 1 at x >= 1, with zero slope at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def ease(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Rise from 0 at 0 to 1 at 1 with zero slope and curvature at both ends: 6 x^5 - 15 x^4 + 10 x^3."""
    return x**3 * (x * (6 * x - 15) + 10)


def pressure(u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the brush's pressure (0 to 1) along a stroke: set down quickly, lifted slowly; a scaled beta density."""
    rising, falling = 1.1, 1.9
    top = rising / (rising + falling)
    return (u / top) ** rising * ((1 - u) / (1 - top)) ** falling


def ribbon(centre: Float[np.ndarray, "n *A 2"], half: Float[np.ndarray, " n *A"]) -> Float[np.ndarray, "m *A 2"]:
    """Return the outline (m = 2n points) of a line of points, with a width of twice `half` across its direction."""
    along = np.gradient(centre, axis=0)
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    across = np.stack([-along[..., 1], along[..., 0]], -1) / np.maximum(length, 1e-12)
    side = across * half[..., None]
    return np.concatenate([centre + side, (centre - side)[::-1]])


def drop(x: float, y: float, radius: float, sides: int = 28) -> Float[np.ndarray, "n 2"]:
    """Return the outline of a round drop, a polygon of `sides` points."""
    return np.array([x, y]) + radius * _round(sides)


@cache
def _round(sides: int) -> Float[np.ndarray, "n 2"]:
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def blot(text: str, x: float, y: float, radius: float) -> Float[np.ndarray, "n 2"]:
    """Return the outline of a slightly irregular drop, whose shape depends on the hash of `text`."""
    throw = thrown(text)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = radius * (
        1 + sum(throw.uniform(0, 0.05) * np.sin(k * angle + throw.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    )
    return np.stack([x + rim * np.cos(angle), y + rim * np.sin(angle)], -1)


def splash(text: str, x: float, y: float, size: float, count: int) -> list[Float[np.ndarray, "n 2"]]:
    """Return drops scattered around (x, y) by the hash of `text`: the same text always splashes the same way."""
    throw = thrown(text)
    result = []
    for _ in range(count):
        angle, far = throw.uniform(0, 2 * np.pi), throw.uniform(1.35, 2.2)
        radius = size * throw.uniform(0.08, 0.26) * (2.5 - far)
        result.append(drop(x + far * size * np.cos(angle), y + far * size * np.sin(angle), radius, 12))
    return result


def thrown(text: str) -> np.random.Generator:
    """Return a random generator seeded by the text, the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
