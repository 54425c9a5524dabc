"""The glyph: a sentence of tokens as one figure of ink on a circle, in which it can be read.

Time runs clockwise from the gap at the top. Each action dimension has a lane, the first one innermost. A motion draws a
stroke in every lane, which swings out for positive values and in for negative ones, and is as heavy as the value is
large. Pale ink around it is as wide as one deviation of the token's distribution to either side. Events are marks.
All of it is a continuous function of the control points: nearby plans look alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.brush import drop, ease, pressure, ribbon, rise
from policies.marks import mark
from policies.ring import Ring, Span, polar
from policies.splines import design
from policies.vocabulary import Move, Stop, Token

MIDDLE, BAND, WIDEST = 0.58, 0.315, 0.25
"""Radius of the middle of all lanes, how far from it a stroke's centre can be, and how far from its lane."""
RULER = 0.2
"""Radius of the ruler, inside all lanes."""
TAIL = 0.16
"""Radians over which the last stroke is lifted off the paper."""
THREAD = 0.003
"""Half the width of the thinnest line."""
STEP = 0.045
"""Radians between two points of an outline, at most."""
LAYERS = (1.0, 0.62, 0.31)
"""Pale ink is laid so many deviations wide, one on the other; only the widest where there are more than MANY lanes."""
MANY = 8
UNKNOWN = 3**-0.5
"""The deviation of a value of which only the range [-1, 1] is known; none is drawn wider."""


@dataclass(frozen=True)
class Shape:
    """Ink of one `opacity` (0 to 1) inside closed outlines (N, 2); an outline that runs the other way is a hole.

    `role`: stroke, wash, thread, mark, ruler or seed. `token`, `lane`: which it belongs to, -1 where that says nothing.
    """

    outlines: tuple[Float[np.ndarray, "_ 2"], ...]
    opacity: float
    role: str
    token: int = -1
    lane: int = -1


@dataclass(frozen=True)
class Lanes:
    """Where each of A action dimensions is drawn: value v in [-1, 1] at radius `rest`[d] + `swing` x v."""

    rest: Float[np.ndarray, "A"]
    swing: float

    @classmethod
    def of(cls, count: int) -> "Lanes":
        """Share the band: few lanes do not meet, many are woven."""
        swing = min(WIDEST, BAND * max(count, 1) ** -0.75)
        spread = BAND - swing
        return cls(MIDDLE + spread * (np.linspace(-1, 1, count) if count > 1 else np.zeros(count)), swing)


@dataclass(frozen=True)
class Line:
    """Part of a token's curves: at `angle` (n,), `value` and `spread` (n, A); `u` (n,) from 0 to 1; `soft` its joints'
    share."""

    token: int
    u: Float[np.ndarray, "n"]
    angle: Float[np.ndarray, "n"]
    value: Float[np.ndarray, "n A"]
    spread: Float[np.ndarray, "n A"]
    soft: float


def glyph(sentence: Iterable[Token]) -> tuple[Shape, ...]:
    """The shapes of a sentence, pale ones first, in the square [-1, 1] x [-1, 1] (x right, y down).

    Raises ValueError for a sentence that the vocabulary does not allow.
    """
    ring = Ring.of(sentence)
    moves = [span for span in ring.spans if isinstance(span.token, Move)]
    lanes = Lanes.of(moves[0].token.points.shape[1] if moves else 0)
    lines = joined([line for span in moves for line in _lines(span)])
    shapes = [*_ruler(ring), *_seeds(lanes)]
    strokes = [_stroke([line for line in lines if line.token == span.index]) for span in moves]
    for stroke in strokes:
        shapes += _wash(stroke, lanes)
    shapes += _threads(ring, strokes, lanes)
    for stroke in strokes:
        shapes += _ink(stroke, lanes)
    for span in ring.spans:
        if not isinstance(span.token, Move):
            shapes += [Shape(outlines, 1.0, "mark", span.index) for outlines in mark(span)]
    return tuple(shapes)


def _lines(span: Span) -> list[Line]:
    """A motion's curves; those of degree 0 are one level after the other."""
    points, spread = span.token.points, span.token.spread
    spread = np.zeros_like(points) if spread is None else spread
    whole = [(points, spread)]
    if span.token.degree == 0:
        whole = [(points[i : i + 1], spread[i : i + 1]) for i in range(len(points))]
    borders = np.linspace(span.begin, span.end, len(whole) + 1)
    result = []
    for (c, s), begin, end in zip(whole, borders[:-1], borders[1:], strict=True):
        u = np.linspace(0, 1, max(9, int(np.ceil((end - begin) / STEP)) + 1))
        weights = design(u, len(c), min(span.token.degree, len(c) - 1))
        deviation = np.sqrt(weights**2 @ s**2)  # of a curve whose control points vary independently
        soft = 0.5 if span.token.degree == 0 else 0.1
        result.append(Line(span.index, u, begin + (end - begin) * u, weights @ c, deviation, soft))
    return result


def joined(lines: list[Line]) -> list[Line]:
    """The lines with the jumps between neighbours made smooth: both go half of the way within their `soft` share.

    A level keeps its value in its middle, and a curve everywhere but at its ends.
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
        result.append(Line(line.token, line.u, line.angle, np.clip(value, -1, 1), np.clip(spread, 0, None), line.soft))
    return result


def _stroke(lines: list[Line]) -> Line:
    """A token's lines as one, without the points that two of them share."""
    kept = [slice(0, None) if line is lines[0] else slice(1, None) for line in lines]
    angle = np.concatenate([line.angle[k] for line, k in zip(lines, kept, strict=True)])
    value = np.concatenate([line.value[k] for line, k in zip(lines, kept, strict=True)])
    spread = np.concatenate([line.spread[k] for line, k in zip(lines, kept, strict=True)])
    return Line(lines[0].token, (angle - angle[0]) / (angle[-1] - angle[0]), angle, value, spread, lines[0].soft)


def _centre(stroke: Line, lanes: Lanes) -> Float[np.ndarray, "n A 2"]:
    return polar(np.broadcast_to(stroke.angle[:, None], stroke.value.shape), lanes.rest + lanes.swing * stroke.value)


def _ink(stroke: Line, lanes: Lanes) -> list[Shape]:
    weight = 0.06 * len(lanes.rest) ** -0.6
    half = THREAD + weight * pressure(stroke.u)[:, None] * np.abs(stroke.value)
    outlines = ribbon(_centre(stroke, lanes), half)
    return [Shape((outlines[:, d],), 1.0, "stroke", stroke.token, d) for d in range(len(lanes.rest))]


def _wash(stroke: Line, lanes: Lanes) -> list[Shape]:
    """Pale ink: the same amount on more paper is paler."""
    centre = _centre(stroke, lanes)
    ends = rise(stroke.u / 0.35) * rise((1 - stroke.u) / 0.35)
    half = lanes.swing * np.minimum(stroke.spread, UNKNOWN) * ends[:, None]
    opacity = np.minimum(0.35, 0.025 * len(lanes.rest) ** -0.5 / np.maximum(half.mean(0), 1e-3))
    result = []
    for layer in LAYERS if len(lanes.rest) <= MANY else LAYERS[:1]:
        outlines = ribbon(centre, layer * half)
        result += [Shape((outlines[:, d],), float(opacity[d]), "wash", stroke.token, d) for d in range(len(lanes.rest))]
    return result


def _threads(ring: Ring, strokes: list[Line], lanes: Lanes) -> list[Shape]:
    """The thin lines that carry every lane from its seed to the first stroke, over the pauses, and off the last one."""
    if not strokes:
        return []
    still = np.zeros(len(lanes.rest))
    stop = ring.spans[-1]
    end = stop.end if isinstance(stop.token, Stop) else max(strokes[-1].angle[-1], stop.end) + TAIL
    leaving = [(0.0, still, still), *[(s.angle[-1], s.value[-1], _slope(s, -1)) for s in strokes]]
    arriving = [*[(s.angle[0], s.value[0], _slope(s, 0)) for s in strokes], (end, strokes[-1].value[-1], still)]
    result = []
    for i, ((begin, old, rate), (end, new, then)) in enumerate(zip(leaving, arriving, strict=True)):
        gap = end - begin
        if gap < 1e-9:
            continue
        u = np.linspace(0, 1, max(9, int(np.ceil(gap / STEP)) + 1))
        t = u[:, None]
        value = old + rise(t) * (new - old) + gap * t * (1 - t) * ((1 - t) * rate - t * then)  # Hermite's cubic
        line = Line(-1, u, begin + gap * u, np.clip(value, -1, 1), 0 * value, 0.5)
        half = THREAD * (1 - rise(t)) if i == len(strokes) else np.full(t.shape, THREAD)
        outlines = ribbon(_centre(line, lanes), np.broadcast_to(half, value.shape))
        result += [Shape((outlines[:, d],), 1.0, "thread", lane=d) for d in range(len(lanes.rest))]
    return result


def _slope(stroke: Line, end: int) -> Float[np.ndarray, "A"]:
    """Change of the values per radian at a stroke's beginning (0) or end (-1)."""
    i, j = (0, 1) if end == 0 else (-2, -1)
    return (stroke.value[j] - stroke.value[i]) / (stroke.angle[j] - stroke.angle[i])


def _ruler(ring: Ring) -> list[Shape]:
    """Dots along the motions, one for each 0.01, 0.1 or 1 s by size, and a dash at the beginning of each token."""
    result = []
    for angle, rank in ring.ticks():
        x, y = polar(np.array(angle), np.array(RULER))
        result.append(Shape((drop(x, y, {-2: 0.0035, -1: 0.006, 0: 0.0105}.get(rank, 0.016), 12),), 1.0, "ruler"))
    for span in ring.spans:
        if isinstance(span.token, Move):
            radius = np.linspace(RULER + 0.03, RULER + 0.065, 3)
            line = polar(np.full(3, span.begin), radius)
            result.append(Shape((ribbon(line, np.array([0.006, 0.005, 0.0015])),), 1.0, "ruler", span.index))
    return result


def _seeds(lanes: Lanes) -> list[Shape]:
    """A dot at the top for every lane, where 0 is."""
    size = max(0.0045, 0.011 * max(len(lanes.rest), 1) ** -0.4)
    return [Shape((drop(0.0, -r, size, 14),), 1.0, "seed", lane=d) for d, r in enumerate(lanes.rest)]
