"""A sentence's tokens as angles (rad, clockwise from the gap at the top), and the centre lines along them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
from jaxtyping import Float

from policies.tokens.curves import design
from policies.tokens.vocabulary import Grip, Move, Stop, Token, checked

GAP = 0.44  # angle left open at the top, where time begins and ends
PAUSE = 0.2  # largest angle given to an event outside a motion: it has no duration, but needs room to be seen
CROWDED = 0.4  # largest share of the circle for all such events together
FINEST = 80  # largest number of marks on the ruler; longer sentences get a coarser one
STEP = 0.025  # largest angle between two points of a line; twice that for more than MANY lanes
MANY = 8
TAIL = 0.16  # angle over which the brush is lifted after the last stroke


@dataclass(frozen=True)
class Span:
    """Token `index` of a sentence acts from angle `begin` to `end`; they are equal for an event inside a motion."""

    index: int
    token: Token
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The spans of a sentence, and `rate`, in radians per second of motion (0 if nothing moves)."""

    spans: tuple[Span, ...]
    rate: float

    @classmethod
    def of(cls, sentence: Iterable[Token]) -> "Timeline":
        """Lay out a sentence: angles as seconds, a pause for each event outside a motion. Raises ValueError."""
        tokens = checked(sentence)
        total, count = sum(map(_seconds, tokens)), sum(map(_pauses, tokens))
        room = 2 * np.pi - GAP
        pause = min(PAUSE, CROWDED * room / max(count, 1))
        rate = (room - count * pause) / total if total else 0.0
        widths = [rate * _seconds(token) + pause * _pauses(token) for token in tokens]
        begins = GAP / 2 + np.cumsum([0.0, *widths])
        times = np.cumsum([0.0, *map(_seconds, tokens)])
        spans = []
        for i, token in enumerate(tokens):
            begin, end = float(begins[i]), float(begins[i + 1])
            if _inside(token):
                begin = end = _angle(float(times[i]) + token.after, i, times, begins)
            spans.append(Span(i, token, begin, end))
        return cls(tuple(spans), rate)

    def ticks(self) -> list[tuple[float, int]]:
        """Return angle and rank r (10^r s) of each mark of the ruler: of -2, or the first with at most FINEST."""
        moving = [span for span in self.spans if _seconds(span.token)]
        total = sum(_seconds(span.token) for span in moving)
        finest = next(rank for rank in range(-2, 9) if total <= FINEST * 10.0**rank)
        unit, elapsed, result = 10.0**finest, 0.0, []
        for span in moving:
            first = int(np.ceil(elapsed / unit - 1e-6))
            elapsed += _seconds(span.token)
            for k in range(first, int(np.ceil(elapsed / unit - 1e-6))):
                rank = finest + next((r for r in (2, 1) if k % 10**r == 0), 0)
                result.append((span.end - self.rate * (elapsed - k * unit), rank))
        return result


def _seconds(token: Token) -> float:
    return token.seconds if isinstance(token, Move | Stop) else 0.0


def _pauses(token: Token) -> bool:
    return not isinstance(token, Move | Stop) and not _inside(token)


def _inside(token: Token) -> TypeGuard[Grip]:
    return isinstance(token, Grip) and token.after > 0


def _angle(when: float, first: int, times: np.ndarray, begins: np.ndarray) -> float:
    """Return the angle of a time inside a motion from token `first` on; past the last one, its end."""
    end = first + int(np.searchsorted(times[first:], when))
    if end == len(times):
        return float(begins[-1])
    share = (when - times[end - 1]) / (times[end] - times[end - 1])
    return float(begins[end - 1] + share * (begins[end] - begins[end - 1]))


def polar(angle: Float[np.ndarray, "*n"], radius: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 2"]:
    """Return points (x right, y down) at angles and distances from the centre."""
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], -1)


def rise(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Rise smoothly from 0 at x <= 0 to 1 at x >= 1, with zero slope at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True)
class CentreLine:
    """Curves of all lanes along a part of the circle: `value` and `spread` (n, A) at `angle` (n,).

    `u` (n,) goes from 0 to 1. `token`: the token's index, -1 for a thread. `soft`: the share of the line, at each end,
    that may be bent to join a neighbour.
    """

    token: int
    u: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    value: Float[np.ndarray, "n A"]
    spread: Float[np.ndarray, "n A"]
    soft: float


def strokes(timeline: Timeline) -> list[CentreLine]:
    """Return a line for each motion, joined smoothly with motions that follow immediately."""
    moves = [(span, span.token) for span in timeline.spans if isinstance(span.token, Move)]
    lines = joined([line for span, move in moves for line in _levels(span, move)])
    return [_whole([line for line in lines if line.token == span.index]) for span, _ in moves]


def _levels(span: Span, move: Move) -> list[CentreLine]:
    """Return a motion's curves as one line, or as one line per level for degree 0."""
    points, most = move.points, 1e3  # far wider than is ever drawn
    spread = np.zeros_like(points) if move.std is None else np.minimum(move.std, most)
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
        result.append(CentreLine(span.index, u, begin + (end - begin) * u, weights @ c, deviation, soft))
    return result


def _steps(angle: float, lanes: int) -> Float[np.ndarray, " n"]:
    """Return evenly spaced values from 0 to 1, dense enough for an outline over `angle` radians."""
    step = STEP if lanes <= MANY else 2 * STEP
    return np.linspace(0, 1, max(9, int(np.ceil(angle / step)) + 1))


def joined(lines: list[CentreLine]) -> list[CentreLine]:
    """Smooth the jumps between adjacent lines: each bends half of the way to the other within its `soft` share."""
    result = []
    for i, line in enumerate(lines):
        value, spread = line.value, line.spread
        for other, side in ((i - 1, 0), (i + 1, -1)):
            if not 0 <= other < len(lines) or abs(lines[other].angle[-1 - side] - line.angle[side]) > 1e-9:
                continue
            near = line.u if side == 0 else 1 - line.u
            x = 0.5 * np.clip(1 - near / line.soft, 0, 1)[:, None]
            share = x**3 * (x * (6 * x - 15) + 10)  # from 0 to 1 with zero slope and curvature at both ends
            value = value + share * (lines[other].value[-1 - side] - line.value[side])
            spread = spread + share * (lines[other].spread[-1 - side] - line.spread[side])
        result.append(replace(line, value=np.clip(value, -1, 1), spread=np.clip(spread, 0, None)))
    return result


def _whole(lines: list[CentreLine]) -> CentreLine:
    """Concatenate a token's lines, dropping the points that two of them share."""
    angle, value, spread = (
        np.concatenate([getattr(line, name)[i > 0 :] for i, line in enumerate(lines)])
        for name in ("angle", "value", "spread")
    )
    return replace(lines[0], u=(angle - angle[0]) / (angle[-1] - angle[0]), angle=angle, value=value, spread=spread)


def threads(timeline: Timeline, drawn: list[CentreLine]) -> list[CentreLine]:
    """Return the lines that lead every lane from 0 at the top to the first stroke, over pauses, and off the last."""
    if not drawn:
        return []
    last, final = drawn[-1], timeline.spans[-1]
    end = final.end if isinstance(final.token, Stop) else max(last.angle[-1], final.end) + TAIL
    still = np.zeros(last.value.shape[1])
    leaving = [(0.0, still, still), *[(s.angle[-1], s.value[-1], _slope(s, -1)) for s in drawn]]
    arriving = [*[(s.angle[0], s.value[0], _slope(s, 0)) for s in drawn], (end, last.value[-1], still)]
    result = []
    for (begin, old, lean), (to, new, then) in zip(leaving, arriving, strict=True):
        if to - begin > 1e-9:
            u = _steps(to - begin, len(still))
            t = u[:, None]
            value = old + rise(t) * (new - old) + t * (1 - t) * ((1 - t) * lean - t * then)  # cubic Hermite
            result.append(CentreLine(-1, u, begin + (to - begin) * u, np.clip(value, -1, 1), 0 * value, 0.5))
    return result


def _slope(stroke: CentreLine, end: int) -> Float[np.ndarray, " A"]:
    """Return an eighth of the slope (A,) of a stroke at its beginning (`end` = 0) or end (-1), for a thread."""
    i, j = (0, 1) if end == 0 else (-2, -1)
    return 0.125 * (stroke.value[j] - stroke.value[i]) / (stroke.u[j] - stroke.u[i])
