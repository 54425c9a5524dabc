"""The marks of a glyph, one design for each kind of event."""

import numpy as np
from jaxtyping import Float

from policies.glyphs.brush import blot, drop, ribbon, rise, splash
from policies.glyphs.ring import Span, polar
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop

INNER, HEAD, SIZE = 0.255, 0.915, 0.045
"""Distances from the centre at which a mark's stem begins and its head lies, and the radius of the head."""

Outlines = tuple[Float[np.ndarray, "_ 2"], ...]


def mark(span: Span) -> list[Outlines]:
    """Return the shapes of an event: a stem across all lanes, a head that shows its kind, and splashes around it.

    A stop is a bar across all lanes instead.
    """
    angle = (span.begin + span.end) / 2
    match span.token:
        case Stop():
            return _stop(span.end)
        case Grip() as grip:
            name, heads = "grip", _grip(grip, angle)
        case Look() as look:
            name, heads = f"look {look.what}", _look(look, angle)
        case Ask() as ask:
            name, heads = f"ask {ask.question}", _ask(ask, angle)
        case Move():
            raise TypeError("a motion is drawn as strokes, not as a mark")
    x, y = polar(np.array(angle), np.array(HEAD))
    drops = splash(f"{span.index} {name}", float(x), float(y), SIZE, 5)
    inside = [d for d in drops if np.abs(d).max() < 1]
    return [_stem(angle), *heads, *[(d,) for d in inside]]


def _stem(angle: float) -> Outlines:
    u = np.linspace(0, 1, 30)
    radius = INNER + (HEAD - 0.85 * SIZE - INNER) * u
    centre = polar(angle + 0.014 * np.sin(2 * np.pi * u) / radius, radius)
    return (ribbon(centre, 0.001 + 0.0035 * rise(u / 0.5) + 0.011 * u**6),)


def _grip(token: Grip, angle: float) -> list[Outlines]:
    """Draw a blot with a hole that is larger the wider the gripper opens; none for a closed one."""
    x, y = polar(np.array(angle), np.array(HEAD))
    return [(blot(f"grip {angle:.1f}", x, y, SIZE), drop(x, y, 0.74 * SIZE * token.level)[::-1])]


def _look(token: Look, angle: float) -> list[Outlines]:
    """Draw an eye with a round pupil."""
    u = np.linspace(-1, 1, 20)
    wide, high = 1.9 * SIZE, 0.95 * SIZE
    lid = np.concatenate(
        [np.stack([wide * u, -high * (1 - u**2)], -1), np.stack([wide * u, high * (1 - u**2)], -1)[-2:0:-1]]
    )
    hole = np.array([0.8, 0.66]) * lid[::-1]
    return [(_turn(lid, angle), _turn(hole, angle)), (_turn(drop(0.0, 0.0, 0.38 * SIZE), angle),)]


def _ask(token: Ask, angle: float) -> list[Outlines]:
    """Draw a hook, as in a question mark, around a drop."""
    u = np.linspace(0, 1, 40)
    turn = np.pi * (1.0 - 1.55 * u)
    centre = 1.25 * SIZE * np.stack([np.sin(turn), np.cos(turn)], -1)
    half = 0.3 * SIZE * rise(u / 0.5) * (1 - 0.75 * rise((u - 0.5) / 0.5)) + 0.003
    return [(_turn(ribbon(centre, half), angle),), (_turn(drop(0.0, 0.0, 0.36 * SIZE), angle),)]


def _stop(angle: float) -> list[Outlines]:
    """Draw a heavy bar across all lanes."""
    u = np.linspace(0, 1, 24)
    centre = polar(np.full(24, angle), INNER + (HEAD - INNER) * u)
    half = 0.004 + 0.022 * rise(u / 0.15) * (1 - 0.8 * rise((u - 0.3) / 0.7))
    x, y = polar(np.array(angle), np.array(INNER))
    return [(ribbon(centre, half),), *[(d,) for d in splash("stop", float(x), float(y), SIZE, 4)]]


def _turn(points: Float[np.ndarray, "n 2"], angle: float) -> Float[np.ndarray, "n 2"]:
    """Move points from the frame of a mark's head (x along the ring, y inwards) to its place on the ring."""
    x, y = polar(np.array(angle), np.array(HEAD))
    along, inward = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return np.array([x, y]) + points[:, :1] * along + points[:, 1:] * inward
