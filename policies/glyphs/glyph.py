"""The glyph: a sentence of tokens as one figure of ink on a circle, from which it can be read.

Time runs clockwise from the gap at the top. Each action dimension has a lane, the first one innermost. A motion draws a
stroke in every lane, which swings outwards for positive and inwards for negative values, and is heavier for larger
absolute values. Pale ink around it extends one standard deviation of the token's distribution to either side. Events
are drawn as marks. Everything is a continuous function of the control points: nearby plans look alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.glyphs.brush import drop, pressure, ribbon, rise
from policies.glyphs.lines import MANY, Line, strokes, threads
from policies.glyphs.marks import mark
from policies.glyphs.ring import Ring, polar
from policies.tokens.vocabulary import Move, Stop, Token

MIDDLE, BAND, WIDEST = 0.58, 0.315, 0.25
"""Radius of the middle of all lanes, and a stroke's largest distance from it and from the centre of its lane."""
RULER = 0.2
"""Radius of the ruler, inside all lanes."""
THREAD, REST = 0.003, 0.0015
"""Half the width of the thinnest line of ink, and of the circles that mark the value 0."""
LAYERS = (1.0, 0.62, 0.31)
"""Widths of the layers of pale ink, in standard deviations; only the widest is drawn for more than MANY lanes."""
UNKNOWN = 3**-0.5
"""The standard deviation of a value known only to be in [-1, 1] (uniform); none is drawn wider."""
DOTS = {-2: 0.005, -1: 0.0075, 0: 0.012}
"""Radius of the ruler's dots by rank: 0.01, 0.1 and 1 s."""


@dataclass(frozen=True)
class Shape:
    """Ink of one `opacity` (0 to 1) inside closed outlines (N, 2); an outline of opposite orientation is a hole.

    `role`: stroke, wash, thread, mark, ruler, rest or seed. `token`, `lane`: those it belongs to, -1 for none.
    """

    outlines: tuple[Float[np.ndarray, "_ 2"], ...]
    opacity: float
    role: str
    token: int = -1
    lane: int = -1


@dataclass(frozen=True)
class Lanes:
    """Where each of A action dimensions is drawn: value v in [-1, 1] at radius rest[d] + swing x v."""

    rest: Float[np.ndarray, " A"]
    swing: float

    @classmethod
    def of(cls, count: int) -> "Lanes":
        """Divide the band among `count` lanes; a few lanes do not overlap, many are interwoven."""
        swing = min(WIDEST, BAND * max(count, 1) ** -0.75)
        spread = BAND - swing
        return cls(MIDDLE + spread * (np.linspace(-1, 1, count) if count > 1 else np.zeros(count)), swing)


def glyph(sentence: Iterable[Token]) -> tuple[Shape, ...]:
    """Return the shapes of a sentence, pale ones first, in the square [-1, 1] x [-1, 1] (x right, y down).

    Raises ValueError for a sentence that the vocabulary does not allow.
    """
    ring = Ring.of(sentence)
    drawn = strokes(ring)
    lanes = Lanes.of(drawn[0].value.shape[1] if drawn else 0)
    shapes = [*_ruler(ring), *_rests(lanes)]
    for stroke in drawn:
        shapes += _wash(stroke, lanes)
    carrying = threads(ring, drawn)
    for thread in carrying:
        shapes += _thread(thread, lanes, lifted=thread is carrying[-1])
    for stroke in drawn:
        shapes += _ink(stroke, lanes)
    for span in ring.spans:
        if not isinstance(span.token, Move):
            shapes += [Shape(outlines, 1.0, "mark", span.index) for outlines in mark(span)]
    return tuple(shapes)


def _band(line: Line, lanes: Lanes, half: Float[np.ndarray, "n A"]) -> Float[np.ndarray, "m A 2"]:
    """Return outlines that extend `half` outwards and inwards from a line: a broad pen held towards the middle.

    Steep parts of a line are thin, as in writing, and an outline moves no further than value and width do.
    """
    angle = np.broadcast_to(line.angle[:, None], line.value.shape)
    radius = lanes.rest + lanes.swing * line.value
    return np.concatenate([polar(angle, radius + half), polar(angle, radius - half)[::-1]])


def _ink(stroke: Line, lanes: Lanes) -> list[Shape]:
    weight = 0.06 * len(lanes.rest) ** -0.6
    outlines = _band(stroke, lanes, THREAD + weight * pressure(stroke.u)[:, None] * np.abs(stroke.value))
    return _each(outlines, np.ones(len(lanes.rest)), "stroke", stroke.token)


def _wash(stroke: Line, lanes: Lanes) -> list[Shape]:
    """Draw the pale ink around a stroke: the wider it is, the paler, as if the amount of ink were the same."""
    spread = np.minimum(stroke.spread, UNKNOWN)
    ends = rise(stroke.u / 0.35) * rise((1 - stroke.u) / 0.35)
    opacity = 0.55 / (1 + 4 * spread.mean(0))
    result = []
    for layer in LAYERS if len(lanes.rest) <= MANY else LAYERS[:1]:
        outlines = _band(stroke, lanes, layer * lanes.swing * spread * ends[:, None])
        result += _each(outlines, opacity, "wash", stroke.token)
    return result


def _thread(thread: Line, lanes: Lanes, lifted: bool) -> list[Shape]:
    """Draw a line of the smallest width, which tapers off to nothing if it is the last one (`lifted`)."""
    angle = np.broadcast_to(thread.angle[:, None], thread.value.shape)
    half = THREAD * (1 - rise(thread.u) if lifted else np.ones(len(thread.u)))
    centre = polar(angle, lanes.rest + lanes.swing * thread.value)
    outlines = ribbon(centre, np.broadcast_to(half[:, None], thread.value.shape))
    return _each(outlines, np.ones(len(lanes.rest)), "thread", thread.token)


def _each(outlines: Float[np.ndarray, "m A 2"], opacity: Float[np.ndarray, " A"], role: str, token: int) -> list[Shape]:
    """Return one shape for each lane."""
    return [Shape((outlines[:, d],), float(opacity[d]), role, token, d) for d in range(len(opacity))]


def _ruler(ring: Ring) -> list[Shape]:
    """Draw dots along the motions, sized by 0.01, 0.1 and 1 s, and a dash at the beginning of each motion or stop."""
    result = []
    for angle, rank in ring.ticks():
        x, y = polar(np.array(angle), np.array(RULER))
        result.append(Shape((drop(x, y, DOTS.get(rank, 0.018), 12),), 1.0, "ruler"))
    for span in ring.spans:
        if isinstance(span.token, Move | Stop):
            line = polar(np.full(3, span.begin), np.linspace(RULER + 0.03, RULER + 0.065, 3))
            result.append(Shape((ribbon(line, np.array([0.006, 0.005, 0.0015])),), 1.0, "ruler", span.index))
    return result


def _rests(lanes: Lanes) -> list[Shape]:
    """Draw for each lane a dot at the top, where it begins, and a pale circle at value 0 (up to MANY lanes)."""
    count, result = len(lanes.rest), []
    for d, radius in enumerate(lanes.rest):
        if count <= MANY:
            circle = (drop(0.0, 0.0, radius + REST, 120), drop(0.0, 0.0, radius - REST, 120)[::-1])
            result.append(Shape(circle, 0.4 * count**-0.5, "rest", lane=d))
        result.append(Shape((drop(0.0, -radius, max(0.0045, 0.011 * count**-0.4), 14),), 1.0, "seed", lane=d))
    return result
