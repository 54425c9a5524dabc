"""The vocabulary: a token is a kind with parameters; a sentence of tokens is a plan, printed as one line, kept as JSON.

Positions are in the robot's range scaled to [-1, 1], times in seconds, gripper levels from 0 (closed) to 1 (open).
`policies.tokens.playback` executes a sentence.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from reprlib import repr as short

import numpy as np
from jaxtyping import Float

from worldmodel.errors import UserError
from worldmodel.strict import build, check

SHORTEST, LONGEST = 0.001, 60.0  # the shortest duration of a motion and the longest of any token, in seconds
MOST = 256  # the largest number of control points of a motion


def unfit(control_points: int, seconds: float) -> str:
    """Explain why a motion cannot have so many control points or last `seconds`; empty if it can."""
    if control_points > MOST:
        return f"{control_points} control points; a motion has at most {MOST}"
    if not SHORTEST <= seconds <= LONGEST:
        return f"{seconds:.6g} s; a motion lasts from {SHORTEST:g} to {LONGEST:g} s"
    return ""


@dataclass(frozen=True, eq=False)
class Move:
    """A motion: a B-spline with control points (K, A) in [-1, 1], lasting `seconds`, and its uncertainty.

    `std` (K, A): standard deviations of the control points, or None if they are unknown.
    Raises ValueError for a control point or duration out of range, too many control points, a negative `std` or one of
    another shape, or a degree outside 0 .. K - 1.
    """

    points: Float[np.ndarray, "K A"]
    seconds: float
    degree: int = 3
    std: Float[np.ndarray, "_ _"] | None = None

    def __post_init__(self):
        """Replace the arrays by read-only copies, and check every field."""
        check("move.", self, "seconds", low=SHORTEST, high=LONGEST)
        object.__setattr__(self, "points", _matrix(self.points, "move.points", -1, 1))
        if len(self.points) > MOST:
            raise UserError(f"move.points: {len(self.points)} control points; at most {MOST}")
        check("move.", self, "degree", low=0, high=len(self.points) - 1, why=f" for {len(self.points)} control points")
        if self.std is not None:
            object.__setattr__(self, "std", _matrix(self.std, "move.std", 0, np.inf))
            if self.std.shape != self.points.shape:
                raise UserError(f"move.std: shape {self.std.shape}, {self.points.shape} is needed, as move.points")

    @classmethod
    def of(cls, points: Float[np.ndarray, " P"], control_points: int, degree: int, seconds: float) -> "Move":
        """Build the motion of a model's token (P,), clamped, since a mean may be out of bounds by an ulp."""
        points = np.clip(np.asarray(points, dtype=float).reshape(control_points, -1), -1, 1)
        return cls(points, seconds, degree)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Move) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        std = None if self.std is None else self.std.tolist()
        return repr((self.points.tolist(), std)), self.seconds, self.degree

    def __str__(self) -> str:
        return f"move({self.seconds:.3g} s)"


@dataclass(frozen=True)
class Grip:
    """An event: set the gripper to `level`, `after` seconds later than this token's position in the sentence."""

    level: float
    after: float = 0.0

    def __post_init__(self):
        check("grip.", self, "level", low=0, high=1, why=" (closed to open)")
        check("grip.", self, "after", low=0, high=LONGEST)

    def __str__(self) -> str:
        level = {0.0: "close", 1.0: "open"}.get(self.level, f"{self.level:.3g}")
        return f"grip({level}, +{self.after:.3g} s)" if self.after else f"grip({level})"


@dataclass(frozen=True)
class Look:
    """Turn attention to `what` (a name), at `where` if known: (x, y, z) in metres from the robot's base."""

    what: str
    where: tuple[float, float, float] | None = None

    def __post_init__(self):
        _line(self.what, "look.what")
        if self.where is not None and (len(self.where) != 3 or not np.isfinite(self.where).all()):
            raise UserError(f"look.where={self.where}: three finite numbers, in metres")

    def __str__(self) -> str:
        place = "" if self.where is None else " at " + ", ".join(f"{x:.3g}" for x in self.where)
        return f"look({self.what}{place})"


@dataclass(frozen=True)
class Ask:
    """Ask a person `question`, with the robot at rest, since the answer may take arbitrarily long."""

    question: str

    def __post_init__(self):
        _line(self.question, "ask.question")

    def __str__(self) -> str:
        return f"ask({self.question})"


@dataclass(frozen=True)
class Stop:
    """Come to rest within `seconds`, and end the sentence."""

    seconds: float = 0.3

    def __post_init__(self):
        check("stop.", self, "seconds", above=0, high=LONGEST)

    def __str__(self) -> str:
        return "stop"


Token = Move | Grip | Look | Ask | Stop
Sentence = tuple[Token, ...]

KINDS: dict[str, type] = {"move": Move, "grip": Grip, "look": Look, "ask": Ask, "stop": Stop}
"""Token classes by kind name. A kind's id is its position here, and must not change."""


def kind(token: Token) -> str:
    """Return the name of a token's kind, a key of `KINDS`."""
    return type(token).__name__.lower()


def text(sentence: Iterable[Token]) -> str:
    """Format a sentence as one line, e.g. 2 × move(0.4 s) · grip(close) · move(0.8 s) · stop."""
    alike = [(name, len([*group])) for name, group in groupby(map(str, sentence))]
    return " · ".join(f"{count} × {name}" if count > 1 else name for name, count in alike)


def checked(sentence: Iterable[Token]) -> Sentence:
    """Return the sentence as a tuple. Raises ValueError if a token follows a stop, or widths of motions differ."""
    result = tuple(sentence)
    for i, token in enumerate(result[:-1]):
        if isinstance(token, Stop):
            raise UserError(f"token {i + 1} of {len(result)}: stop ends a sentence, nothing can follow it")
    widths = {token.points.shape[1] for token in result if isinstance(token, Move)}
    if len(widths) > 1:
        raise UserError(f"move.points: {' and '.join(map(str, sorted(widths)))} columns in one sentence; all the same")
    return result


def _matrix(value: np.ndarray, name: str, low: float, high: float) -> np.ndarray:
    """Return a read-only float64 copy of a matrix. Raises ValueError if it is none, or has an entry out of range."""
    result = np.array(value, dtype=float)
    if result.ndim != 2 or 0 in result.shape:
        raise UserError(f"{name}: shape {result.shape}; a matrix of control points x dimensions")
    wrong = np.argwhere(~((result >= low) & (result <= high)))
    if len(wrong):
        k, a = wrong[0]
        raise UserError(f"{name}[{k}, {a}]={result[k, a]:g}: from {low} to {high}")
    result.flags.writeable = False
    return result


def _line(value: str, name: str) -> None:
    if not value.strip() or not value.isprintable():
        raise UserError(f"{name}={value!r}: one line of text")


def to_plain(sentence: Iterable[Token]) -> list[dict]:
    """Convert each token to a dict of its kind and its parameters (numbers, strings, lists and None)."""
    return [{"kind": kind(t)} | {f.name: _plain(getattr(t, f.name)) for f in fields(t)} for t in sentence]


def from_plain(data: object) -> Sentence:
    """Parse the output of `to_plain` into a sentence. Raises ValueError naming the token and what is expected."""
    if not isinstance(data, list):
        raise UserError(f"a sentence is a list of tokens, not {type(data).__name__}")
    tokens = []
    for i, item in enumerate(data):
        try:
            tokens.append(_token(item))
        except UserError as error:
            raise UserError(f"token {i + 1} of {len(data)}: {error}") from error
    return checked(tokens)


def plan_bytes(plan: Iterable[Token], task: str, places: bool) -> bytes:
    """Return the contents of plan.json; `places`: whether its numbers are positions of an arm's joints."""
    return json.dumps({"task": task, "places": places, "tokens": to_plain(plan)}).encode()


def read_sentence(path: Path, places: bool = False) -> Sentence:
    """Read a sentence from a JSON file: a list as returned by `to_plain`, or a plan as returned by `plan_bytes` (such
    as plan.json in a run folder).

    `places`: reject a plan whose numbers are not joint positions. Raises ValueError naming the file and the problem.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"plan={path}: {error.strerror}; a JSON file, a list of tokens") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"plan={path}: not JSON ({error}); a list of tokens, as in docs/glyph.json") from error
    if isinstance(plain, dict) and plain.keys() == {"task", "places", "tokens"}:
        if places and plain["places"] is not True:
            raise UserError(
                f"plan={path}: a plan for {short(plain['task'])}, whose actions are not places of the arm's joints "
                "(task.control=absolute); semagram-tokens draw draws it"
            )
        plain = plain["tokens"]
    try:
        return from_plain(plain)
    except UserError as error:
        raise UserError(f"plan={path}: {error}") from error


def _plain(value):
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | tuple) else value


def _token(item) -> Token:
    if not isinstance(item, dict):
        raise UserError(f"{short(item)}: a dict of a kind and its parameters, e.g. {{'kind': 'grip', 'level': 0}}")
    name = item.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"kind={short(name)}: one of {', '.join(KINDS)}")
    values = {key: value for key, value in item.items() if key != "kind"}
    for key in ("points", "std") if KINDS[name] is Move else ():
        if key in values and (key, values[key]) != ("std", None):
            values[key] = _rows(values[key], f"{name}.{key}")
    where = values.get("where") if KINDS[name] is Look else None
    if isinstance(where, list) and len(where) != 3:
        raise UserError(f"{name}.where={short(where)}: three numbers, in metres")
    return build(KINDS[name], values, f"{name}.")


def _rows(value, where: str) -> np.ndarray:
    """Convert JSON's lists of numbers, one for each control point, to a matrix."""
    rows = value if isinstance(value, list) and all(isinstance(row, list) for row in value) else []
    numbers = [x for row in rows for x in row]
    real = all(type(x) in (int, float) and abs(x) <= sys.float_info.max for x in numbers)
    if not numbers or not real or len(set(map(len, rows))) > 1:
        raise UserError(f"{where}: lists of finite numbers, one list for each control point, all of one length")
    return np.array(rows, dtype=float)
