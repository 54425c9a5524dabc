"""The ring of a glyph: the times at which the tokens of a sentence act, as angles clockwise from the top."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from jaxtyping import Float

from policies.tokens.vocabulary import Grip, Move, Sentence, Stop, Token, checked

GAP = 0.44
"""Angle left open at the top, where the ring begins and ends, in radians."""
PAUSE = 0.2
"""Largest angle given to an event outside a motion, in radians: it has no duration, but needs room to be seen."""
CROWDED = 0.4
"""Largest share of the ring for all such events together."""
FINEST = 80
"""Largest number of marks on the ruler; longer sentences get a coarser one."""


@dataclass(frozen=True)
class Span:
    """Token `index` of a sentence acts from angle `begin` to `end`, in radians; equal for an event inside a motion."""

    index: int
    token: Token
    begin: float
    end: float


@dataclass(frozen=True)
class Ring:
    """The spans of a sentence, and `rate`, in radians per second of motion (0 if nothing moves)."""

    spans: tuple[Span, ...]
    rate: float

    @classmethod
    def of(cls, sentence: Iterable[Token]) -> "Ring":
        """Lay out a sentence: angles proportional to seconds, and a pause for each event outside a motion.

        Raises ValueError for an invalid sentence.
        """
        tokens = checked(sentence)
        total = sum(map(_seconds, tokens))
        count = sum(map(_pauses, tokens))
        room = 2 * np.pi - GAP
        pause = min(PAUSE, CROWDED * room / max(count, 1))
        rate = (room - count * pause) / total if total else 0.0
        widths = [rate * _seconds(token) + pause * _pauses(token) for token in tokens]
        begins = GAP / 2 + np.cumsum([0.0, *widths])
        spans = []
        for i, (token, angle) in enumerate(zip(tokens, _angles(tokens, begins), strict=True)):
            begin, end = (begins[i], begins[i + 1]) if angle is None else (angle, angle)
            spans.append(Span(i, token, float(begin), float(end)))
        return cls(tuple(spans), rate)

    def ticks(self) -> list[tuple[float, int]]:
        """Return angle and rank of each mark of a ruler along the motions: rank r at multiples of 10^r seconds.

        The finest rank is -2, or the first one above it with at most FINEST marks.
        """
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


def _angles(tokens: Sentence, begins: Float[np.ndarray, " n"]) -> list[float | None]:
    """Return the angles of tokens that act inside a motion (past the last one: at its end), and None for the others."""
    times = np.cumsum([0.0, *map(_seconds, tokens)])
    result: list[float | None] = []
    for i, token in enumerate(tokens):
        if not _inside(token):
            result.append(None)
            continue
        when = float(times[i]) + token.after
        into = next((j for j in range(i, len(tokens)) if times[j] < when <= times[j + 1]), None)
        if into is None:
            result.append(float(begins[-1]))
            continue
        part = (when - times[into]) / (times[into + 1] - times[into])
        result.append(float(begins[into] + part * (begins[into + 1] - begins[into])))
    return result


def polar(angle: Float[np.ndarray, "*n"], radius: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 2"]:
    """Return points (x right, y down) at angles clockwise from the top, in radians."""
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], -1)
