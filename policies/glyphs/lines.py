"""The centre lines of a glyph: each motion's curves on the ring, and the threads between them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.glyphs.brush import ease, rise
from policies.glyphs.ring import Ring, Span
from policies.tokens.splines import design
from policies.tokens.vocabulary import Move, Stop

STEP = 0.025
"""Largest angle between two points of a line, in radians; twice that for more than MANY lanes."""
MANY = 8
TAIL = 0.16
"""Angle over which the brush is lifted after the last stroke, in radians."""


@dataclass(frozen=True)
class Line:
    """Curves of all lanes along a part of the ring: `value` and `spread` (n, A) at `angle` (n,).

    `u` (n,) goes from 0 to 1. `token`: the token's index, -1 for a thread. `soft`: the share of the line, at each end,
    that may be bent to join a neighbour.
    """

    token: int
    u: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    value: Float[np.ndarray, "n A"]
    spread: Float[np.ndarray, "n A"]
    soft: float


def strokes(ring: Ring) -> list[Line]:
    """Return a line for each motion, joined smoothly with motions that follow immediately."""
    moves = [(span, span.token) for span in ring.spans if isinstance(span.token, Move)]
    lines = joined([line for span, move in moves for line in _levels(span, move)])
    return [_whole([line for line in lines if line.token == span.index]) for span, _ in moves]


def _levels(span: Span, move: Move) -> list[Line]:
    """Return a motion's curves as one line, or as one line per level for degree 0."""
    points = move.points
    most = 1e3  # far wider than is ever drawn
    spread = np.zeros_like(points) if move.spread is None else np.minimum(move.spread, most)
    parts = [(points, spread)]
    if move.degree == 0:
        parts = [(points[i : i + 1], spread[i : i + 1]) for i in range(len(points))]
    borders = np.linspace(span.begin, span.end, len(parts) + 1)
    result = []
    for (c, s), begin, end in zip(parts, borders[:-1], borders[1:], strict=True):
        u = _steps(end - begin, points.shape[1])
        weights = design(u, len(c), min(move.degree, len(c) - 1))
        deviation = np.sqrt(weights**2 @ s**2)  # for control points that vary independently
        soft = 0.5 if move.degree == 0 else 0.1
        result.append(Line(span.index, u, begin + (end - begin) * u, weights @ c, deviation, soft))
    return result


def _steps(angle: float, lanes: int) -> Float[np.ndarray, " n"]:
    """Return evenly spaced values from 0 to 1, dense enough for an outline over `angle` radians."""
    step = STEP if lanes <= MANY else 2 * STEP
    return np.linspace(0, 1, max(9, int(np.ceil(angle / step)) + 1))


def joined(lines: list[Line]) -> list[Line]:
    """Smooth the jumps between adjacent lines: each bends half of the way to the other within its `soft` share.

    A level thus keeps its value in its middle, and a curve everywhere but near its ends.
    """
    result = []
    for i, line in enumerate(lines):
        value, spread = line.value, line.spread
        for other, side in ((i - 1, 0), (i + 1, -1)):
            if not 0 <= other < len(lines) or abs(lines[other].angle[-1 - side] - line.angle[side]) > 1e-9:
                continue
            near = line.u if side == 0 else 1 - line.u
            share = ease(0.5 * np.clip(1 - near / line.soft, 0, 1))[:, None]
            value = value + share * (lines[other].value[-1 - side] - line.value[side])
            spread = spread + share * (lines[other].spread[-1 - side] - line.spread[side])
        value, spread = np.clip(value, -1, 1), np.clip(spread, 0, None)
        result.append(Line(line.token, line.u, line.angle, value, spread, line.soft))
    return result


def _whole(lines: list[Line]) -> Line:
    """Concatenate a token's lines, dropping the points that two of them share."""
    first, rest = lines[0], lines[1:]
    angle = np.concatenate([first.angle, *[line.angle[1:] for line in rest]])
    value = np.concatenate([first.value, *[line.value[1:] for line in rest]])
    spread = np.concatenate([first.spread, *[line.spread[1:] for line in rest]])
    return Line(first.token, (angle - angle[0]) / (angle[-1] - angle[0]), angle, value, spread, first.soft)


def threads(ring: Ring, drawn: list[Line]) -> list[Line]:
    """Return the lines that carry every lane from 0 at the top to the first stroke, over pauses, and off the last."""
    if not drawn:
        return []
    last, final = drawn[-1], ring.spans[-1]
    end = final.end if isinstance(final.token, Stop) else max(last.angle[-1], final.end) + TAIL
    still = np.zeros(last.value.shape[1])
    leaving = [(0.0, still, still), *[(s.angle[-1], s.value[-1], _leaning(s, -1)) for s in drawn]]
    arriving = [*[(s.angle[0], s.value[0], _leaning(s, 0)) for s in drawn], (end, last.value[-1], still)]
    result = []
    for (begin, old, lean), (to, new, then) in zip(leaving, arriving, strict=True):
        if to - begin > 1e-9:
            u = _steps(to - begin, len(still))
            t = u[:, None]
            value = old + rise(t) * (new - old) + t * (1 - t) * ((1 - t) * lean - t * then)  # cubic Hermite
            result.append(Line(-1, u, begin + (to - begin) * u, np.clip(value, -1, 1), 0 * value, 0.5))
    return result


def _leaning(stroke: Line, end: int) -> Float[np.ndarray, " A"]:
    """Return the slope (A,) of a thread where it meets a stroke's beginning (`end` = 0) or end (-1).

    It is an eighth of the stroke's own slope, since the thread of a short, steep stroke would swing far out otherwise.
    """
    i, j = (0, 1) if end == 0 else (-2, -1)
    return 0.125 * (stroke.value[j] - stroke.value[i]) / (stroke.u[j] - stroke.u[i])
