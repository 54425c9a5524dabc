"""The glyph: a sentence of tokens as one figure of ink on a circle, from which it can be read.

Time runs clockwise from the gap at the top. Each action dimension has a lane, the first one innermost. A motion draws a
stroke in every lane, which swings outwards for positive and inwards for negative values, and is heavier for larger
absolute values. Pale ink around it extends one standard deviation of the token's distribution to either side. Events
are drawn as marks. Everything is a continuous function of the control points: nearby plans look alike.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.glyphs.layout import MANY, CentreLine, Span, Timeline, polar, rise, strokes, threads
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop, Token

MIDDLE, BAND, WIDEST = 0.58, 0.315, 0.25
"""Radius of the middle of all lanes, and a stroke's largest distance from it and from the centre of its lane."""
RULER = 0.2  # radius of the ruler, inside all lanes
THREAD, REST = 0.003, 0.0015  # half the width of the thinnest line of ink, and of the circles that mark the value 0
LAYERS = (1.0, 0.62, 0.31)
"""Widths of the layers of pale ink, in standard deviations; only the widest is drawn for more than MANY lanes."""
UNKNOWN = 3**-0.5  # the standard deviation of a value known only to be in [-1, 1] (uniform); none is drawn wider
DOTS = {-2: 0.005, -1: 0.0075, 0: 0.012}  # radius of the ruler's dots by rank: 0.01, 0.1 and 1 s
INNER, HEAD, SIZE = 0.255, 0.915, 0.045
"""Distances from the centre at which a mark's stem begins and its head lies, and the radius of the head."""

Outlines = tuple[Float[np.ndarray, "_ 2"], ...]


@dataclass(frozen=True)
class Shape:
    """Ink of one `opacity` (0 to 1) inside closed outlines (N, 2); an outline of opposite orientation is a hole.

    `role`: stroke, wash, thread, mark, ruler, rest or seed. `token`, `lane`: those it belongs to, -1 for none.
    """

    outlines: Outlines
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
    """Return a sentence's shapes, pale ones first, in [-1, 1] x [-1, 1] (x right, y down). Raises ValueError."""
    timeline = Timeline.of(sentence)
    drawn = strokes(timeline)
    lanes = Lanes.of(drawn[0].value.shape[1] if drawn else 0)
    shapes = [*_ruler(timeline), *_rests(lanes)]
    for stroke in drawn:
        shapes += _wash(stroke, lanes)
    between = threads(timeline, drawn)
    for thread in between:
        shapes += _thread(thread, lanes, lifted=thread is between[-1])
    for stroke in drawn:
        shapes += _ink(stroke, lanes)
    for span in timeline.spans:
        shapes += [Shape(outlines, 1.0, "mark", span.index) for outlines in _mark(span)]
    return tuple(shapes)


def _band(line: CentreLine, lanes: Lanes, half: Float[np.ndarray, "n A"]) -> Float[np.ndarray, "m A 2"]:
    """Return outlines that extend `half` outwards and inwards from a line: a broad pen held towards the middle.

    Steep parts of a line are thin, as in writing, and an outline moves no further than value and width do. None leaves
    the page.
    """
    angle = np.broadcast_to(line.angle[:, None], line.value.shape)
    radius = lanes.rest + lanes.swing * line.value
    return np.concatenate([polar(angle, np.minimum(radius + half, 1)), polar(angle, radius - half)[::-1]])


def _ink(stroke: CentreLine, lanes: Lanes) -> list[Shape]:
    weight = 0.06 * len(lanes.rest) ** -0.6
    outlines = _band(stroke, lanes, THREAD + weight * pressure(stroke.u)[:, None] * np.abs(stroke.value))
    return _each(outlines, np.ones(len(lanes.rest)), "stroke", stroke.token)


def _wash(stroke: CentreLine, lanes: Lanes) -> list[Shape]:
    """Draw the pale ink around a stroke: the wider it is, the paler, as if the amount of ink were the same."""
    spread = np.minimum(stroke.spread, UNKNOWN)
    ends = rise(stroke.u / 0.35) * rise((1 - stroke.u) / 0.35)
    opacity = 0.55 / (1 + 4 * spread.mean(0))
    result = []
    for layer in LAYERS if len(lanes.rest) <= MANY else LAYERS[:1]:
        outlines = _band(stroke, lanes, layer * lanes.swing * spread * ends[:, None])
        result += _each(outlines, opacity, "wash", stroke.token)
    return result


def _thread(thread: CentreLine, lanes: Lanes, lifted: bool) -> list[Shape]:
    """Draw a line of the smallest width, which tapers off to nothing if it is the last one (`lifted`)."""
    angle = np.broadcast_to(thread.angle[:, None], thread.value.shape)
    half = THREAD * (1 - rise(thread.u) if lifted else np.ones(len(thread.u)))
    centre = polar(angle, lanes.rest + lanes.swing * thread.value)
    outlines = ribbon(centre, np.broadcast_to(half[:, None], thread.value.shape))
    return _each(outlines, np.ones(len(lanes.rest)), "thread", thread.token)


def _each(outlines: Float[np.ndarray, "m A 2"], opacity: Float[np.ndarray, " A"], role: str, token: int) -> list[Shape]:
    """Return one shape for each lane."""
    return [Shape((outlines[:, d],), float(opacity[d]), role, token, d) for d in range(len(opacity))]


def _ruler(timeline: Timeline) -> list[Shape]:
    """Draw dots along the motions, sized by 0.01, 0.1 and 1 s, and a dash at the beginning of each motion or stop."""
    result = []
    for angle, rank in timeline.ticks():
        result.append(Shape((drop(*_at(angle, RULER), DOTS.get(rank, 0.018), 12),), 1.0, "ruler"))
    for span in timeline.spans:
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


def _mark(span: Span) -> list[Outlines]:
    """Return an event's outlines: a stem, a head that shows its kind, splashes; a stop's is a bar, a motion's none."""
    angle = (span.begin + span.end) / 2
    x, y = _at(angle, HEAD)
    heads: list[Outlines]
    match span.token:
        case Move():
            return []
        case Stop():
            u = np.linspace(0, 1, 24)
            half = 0.004 + 0.022 * rise(u / 0.15) * (1 - 0.8 * rise((u - 0.3) / 0.7))
            bar = ribbon(polar(np.full(24, span.end), INNER + (HEAD - INNER) * u), half)
            return [(bar,), *[(d,) for d in _splash("stop", *_at(span.end, INNER), 4)]]
        case Grip(level=level):  # a blot with a hole that is larger the wider the gripper opens
            name, heads = "grip", [(_blot(f"grip {angle:.1f}", x, y), drop(x, y, 0.74 * SIZE * level)[::-1])]
        case Look(what=what):  # an eye with a round pupil
            u = np.linspace(-1, 1, 20)
            upper, lower = (SIZE * np.stack([1.9 * u, s * 0.95 * (1 - u**2)], -1) for s in (-1, 1))
            lid = np.concatenate([upper, lower[-2:0:-1]])
            hole = np.array([0.8, 0.66]) * lid[::-1]
            heads = [(_turn(lid, angle), _turn(hole, angle)), (_turn(drop(0.0, 0.0, 0.38 * SIZE), angle),)]
            name = f"look {what}"
        case Ask(question=question):  # a hook, as in a question mark, around a drop
            u = np.linspace(0, 1, 40)
            turn = np.pi * (1.0 - 1.55 * u)
            centre = 1.25 * SIZE * np.stack([np.sin(turn), np.cos(turn)], -1)
            half = 0.3 * SIZE * rise(u / 0.5) * (1 - 0.75 * rise((u - 0.5) / 0.5)) + 0.003
            heads = [(_turn(ribbon(centre, half), angle),), (_turn(drop(0.0, 0.0, 0.36 * SIZE), angle),)]
            name = f"ask {question}"
    drops = [d for d in _splash(f"{span.index} {name}", x, y, 5) if np.abs(d).max() < 1]
    u = np.linspace(0, 1, 30)
    radius = INNER + (HEAD - 0.85 * SIZE - INNER) * u
    stem = polar(angle + 0.014 * np.sin(2 * np.pi * u) / radius, radius)
    return [(ribbon(stem, 0.001 + 0.0035 * rise(u / 0.5) + 0.011 * u**6),), *heads, *[(d,) for d in drops]]


def _at(angle: float, radius: float) -> tuple[float, float]:
    x, y = polar(np.array(angle), np.array(radius))
    return float(x), float(y)


def _turn(points: Float[np.ndarray, "n 2"], angle: float) -> Float[np.ndarray, "n 2"]:
    """Move points from the frame of a mark's head (x along the circle, y inwards) to its place."""
    along, inward = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return np.array(_at(angle, HEAD)) + points[:, :1] * along + points[:, 1:] * inward


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
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return np.array([x, y]) + radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def _blot(text: str, x: float, y: float) -> Float[np.ndarray, "n 2"]:
    """Return the outline of a slightly irregular drop, whose shape depends on the hash of `text`."""
    rng = _seeded(text)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = SIZE * (1 + sum(rng.uniform(0, 0.05) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)))
    return np.stack([x + rim * np.cos(angle), y + rim * np.sin(angle)], -1)


def _splash(text: str, x: float, y: float, count: int) -> list[Float[np.ndarray, "n 2"]]:
    """Return drops scattered around (x, y) by the hash of `text`: the same text always splashes the same way."""
    rng = _seeded(text)
    result = []
    for _ in range(count):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.35, 2.2)
        radius = SIZE * rng.uniform(0.08, 0.26) * (2.5 - far)
        result.append(drop(x + far * SIZE * np.cos(angle), y + far * SIZE * np.sin(angle), radius, 12))
    return result


def _seeded(text: str) -> np.random.Generator:
    """Return a random generator seeded by the text, the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
