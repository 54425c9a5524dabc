"""The ring of a glyph: when each token of a sentence acts, as angles clockwise from the top of a circle."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.vocabulary import Grip, Move, Stop, Token, checked

GAP = 0.44
"""Radians left open at the top, where the ring begins and ends."""
PAUSE = 0.2
"""Radians that an event outside a motion takes: it has no duration, but needs room to be seen."""
CROWDED = 0.4
"""Share of the ring that all such events together may take."""


@dataclass(frozen=True)
class Span:
    """Token `index` of a sentence acts from angle `begin` to `end`, in radians; inside a motion the two are equal."""

    index: int
    token: Token
    begin: float
    end: float


@dataclass(frozen=True)
class Ring:
    """The spans of a sentence, and `rate`, radians per second of motion (0 where nothing moves)."""

    spans: tuple[Span, ...]
    rate: float

    @classmethod
    def of(cls, sentence: Iterable[Token]) -> "Ring":
        """Lay a sentence out: angles in proportion to seconds, a pause for each event that is not inside a motion."""
        tokens = checked(sentence)
        total = sum(token.seconds for token in tokens if isinstance(token, Move | Stop))
        pauses = sum(_pauses(token) for token in tokens)
        room = 2 * np.pi - GAP
        pause = min(PAUSE, CROWDED * room / max(pauses, 1))
        rate = (room - pauses * pause) / total if total else 0.0
        spans, at = [], GAP / 2
        for index, token in enumerate(tokens):
            begin = at + rate * token.after if isinstance(token, Grip) else at
            width = rate * token.seconds if isinstance(token, Move | Stop) else pause * _pauses(token)
            spans.append(Span(index, token, min(begin, 2 * np.pi - GAP / 2), min(begin, 2 * np.pi - GAP / 2) + width))
            at += width
        return cls(tuple(spans), rate)

    def ticks(self) -> list[tuple[float, int]]:
        """Angle and rank of every mark of a ruler along the motions: rank -2 each 0.01 s, -1 each 0.1 s, 0 each second.

        The rank is that of the longest unit that ends there; units that would give more than 80 marks are left out.
        """
        moving = [span for span in self.spans if isinstance(span.token, Move | Stop)]
        total = sum(span.token.seconds for span in moving)
        finest = next((rank for rank in (-2, -1, 0, 1) if total <= 80 * 10.0**rank), 2)
        result, elapsed = [], 0.0
        for span in moving:
            first = int(np.ceil(elapsed / 10.0**finest - 1e-6))
            elapsed += span.token.seconds
            for k in range(first, int(np.ceil(elapsed / 10.0**finest - 1e-6))):
                rank = finest + next((r for r in (2, 1) if k % 10**r == 0), 0)
                angle = span.end - self.rate * (elapsed - k * 10.0**finest)
                result.append((angle, rank))
        return result


def _pauses(token: Token) -> bool:
    return not isinstance(token, Move | Stop) and not (isinstance(token, Grip) and token.after > 0)


def polar(angle: Float[np.ndarray, "*n"], radius: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 2"]:
    """Points (x right, y down) at angles clockwise from the top."""
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], -1)
