"""Tokens as vectors of one width: first the kind, then each kind's parameters, every one in a place of its own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.vocabulary import KINDS, Ask, Grip, Look, Move, Stop, Token, kind


@dataclass(frozen=True)
class Layout:
    """Places for tokens whose motions have control points (knots, size), and for the names that a vector cannot hold.

    `things` can be looked at, `questions` asked. A vector (width,) holds, in this order: the kind, one-hot (5); move:
    seconds, points (K A), spread (K A), whether the spread is known; grip: level, after; look: the thing's place in
    `things`, x, y, z, whether they are known; ask: the question's place; stop: seconds. Other kinds' places hold 0.
    """

    knots: int
    size: int
    degree: int
    things: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    @property
    def places(self) -> dict[str, slice]:
        """Where each kind's parameters lie, by its name."""
        widths = {"move": 2 + 2 * self.knots * self.size, "grip": 2, "look": 5, "ask": 1, "stop": 1}
        result, at = {}, len(KINDS)
        for name in KINDS:
            result[name] = slice(at, at + widths[name])
            at += widths[name]
        return result

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.places["stop"].stop

    def encode(self, token: Token) -> Float[np.ndarray, " W"]:
        """The token's vector (width,). Raises ValueError for a motion of another shape, or a name that is not known."""
        name = kind(token)
        vector = np.zeros(self.width)
        vector[list(KINDS).index(name)] = 1
        vector[self.places[name]] = self._parameters(token)
        return vector

    def decode(self, vector: Float[np.ndarray, " W"]) -> Token:
        """The token of a vector (width,). Raises ValueError for a vector that no token has."""
        if vector.shape != (self.width,):
            raise ValueError(f"a token's vector has shape {vector.shape}, ({self.width},) is needed")
        chosen = vector[: len(KINDS)]
        if sorted(chosen.tolist()) != [0] * (len(KINDS) - 1) + [1]:
            raise ValueError(f"kind {chosen.tolist()}: one 1 and else 0, in the order {', '.join(KINDS)}")
        name = list(KINDS)[int(chosen.argmax())]
        places = self.places[name]
        if vector[len(KINDS) : places.start].any() or vector[places.stop :].any():
            raise ValueError(f"{name}: the other kinds' places must hold 0")
        return self._token(name, vector[places])

    def _parameters(self, token: Token) -> np.ndarray:
        match token:
            case Move():
                have, need = (*token.points.shape, token.degree), (self.knots, self.size, self.degree)
                if have != need:
                    raise ValueError(f"move: (control points, dimensions, degree) = {have}, {need} is needed")
                spread = np.zeros_like(token.points) if token.spread is None else token.spread
                known = token.spread is not None
                return np.concatenate([[token.seconds], token.points.ravel(), spread.ravel(), [known]])
            case Grip():
                return np.array([token.level, token.after])
            case Look():
                place = (0, 0, 0, 0) if token.where is None else (*token.where, 1)
                return np.array([_find(token.what, self.things, "look.what"), *place])
            case Ask():
                return np.array([_find(token.question, self.questions, "ask.question")])
            case Stop():
                return np.array([token.seconds])

    def _token(self, name: str, values: np.ndarray) -> Token:
        match name:
            case "move":
                points, spread = values[1:-1].reshape(2, self.knots, self.size)
                return Move(points, float(values[0]), self.degree, _known(spread, values[-1], "move.spread"))
            case "grip":
                return Grip(*values.tolist())
            case "look":
                where = _known(values[1:4], values[4], "look.where")
                return Look(
                    _name(values[0], self.things, "look.what"), where if where is None else tuple(where.tolist())
                )
            case "ask":
                return Ask(_name(values[0], self.questions, "ask.question"))
        return Stop(float(values[0]))


def _find(name: str, known: tuple[str, ...], where: str) -> int:
    if name not in known:
        raise ValueError(f"{where}={name}: one of {', '.join(known) or 'none: this layout has no names for it'}")
    return known.index(name)


def _name(place: float, known: tuple[str, ...], where: str) -> str:
    if place not in range(len(known)):
        raise ValueError(f"{where}: number {place:g}; a whole number below {len(known)}")
    return known[int(place)]


def _known(values: np.ndarray, flag: float, where: str) -> np.ndarray | None:
    if flag not in (0, 1) or (not flag and values.any()):
        raise ValueError(f"{where}: followed by 1 if it is known; if not, all 0")
    return values if flag else None
