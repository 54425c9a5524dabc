"""Conversion of sentences to plain, JSON-serializable data, and back with validation."""

import json
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from reprlib import repr as short

import numpy as np

from policies.tokens.vocabulary import KINDS, Sentence, Token, checked, kind
from worldmodel.mistakes import Mistake


def to_plain(sentence: Iterable[Token]) -> list[dict]:
    """Convert each token to a dict of its kind and its parameters (numbers, strings, lists and None)."""
    return [{"kind": kind(t)} | {f.name: _plain(getattr(t, f.name)) for f in fields(t)} for t in sentence]


def from_plain(data: object) -> Sentence:
    """Parse the output of `to_plain` (or equivalent JSON data) into a sentence.

    Raises ValueError naming the token, what is wrong with it and what is expected.
    """
    if not isinstance(data, list):
        raise Mistake(f"a sentence is a list of tokens, not {type(data).__name__}")
    tokens = []
    for i, item in enumerate(data):
        try:
            tokens.append(_token(item))
        except Mistake as error:
            raise Mistake(f"token {i + 1} of {len(data)}: {error}") from error
    return checked(tokens)


def plan_bytes(plan: Iterable[Token], task: str, places: bool) -> bytes:
    """Serialize the plan of an agent trained on `task` as the contents of a file that `read_sentence` reads.

    `places`: whether its numbers are joint positions of an arm, scaled to the joints' ranges.
    """
    return json.dumps({"task": task, "places": places, "tokens": to_plain(plan)}).encode()


def read_sentence(path: Path, places: bool = False) -> Sentence:
    """Read a sentence from a JSON file: a list as returned by `to_plain`, or a plan as returned by `plan_bytes` (such
    as plan.json in a run folder).

    `places`: reject a plan whose numbers are not joint positions. Raises ValueError naming the file and the problem.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Mistake(f"sentence={path}: {error.strerror}; a JSON file, a list of tokens") from error
    except (ValueError, RecursionError) as error:
        raise Mistake(f"sentence={path}: not JSON ({error}); a list of tokens, as in docs/glyph.json") from error
    if isinstance(plain, dict) and plain.keys() == {"task", "places", "tokens"}:
        if places and plain["places"] is not True:
            raise Mistake(
                f"sentence={path}: a plan for {short(plain['task'])}, whose actions are not places of the arm's joints "
                "(task.control=absolute); semagram-tokens draw draws it"
            )
        plain = plain["tokens"]
    try:
        return from_plain(plain)
    except Mistake as error:
        raise Mistake(f"sentence={path}: {error}") from error


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _token(item) -> Token:
    if not isinstance(item, dict):
        raise Mistake(f"{short(item)}: a dict of a kind and its parameters, e.g. {{'kind': 'grip', 'level': 0}}")
    name = item.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise Mistake(f"kind={short(name)}: one of {', '.join(KINDS)}")
    known = {f.name: f for f in fields(KINDS[name])}
    for key in item.keys() - {"kind"}:
        if key not in known:
            raise Mistake(f"{name}.{key[:40]}: no such parameter; one of {', '.join(known)}")
    values = {}
    for key, f in known.items():
        if key in item:
            values[key] = _READERS[key](item[key], f"{name}.{key}")
        elif f.default is MISSING:
            raise Mistake(f"{name}.{key}: missing")
    return KINDS[name](**values)


def _number(value, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise Mistake(f"{where}={short(value)}: a finite number")
    return float(value)


def _whole(value, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > sys.maxsize:
        raise Mistake(f"{where}={short(value)}: a whole number")
    return value


def _text(value, where: str) -> str:
    if not isinstance(value, str):
        raise Mistake(f"{where}={short(value)}: text")
    return value


def _matrix(value, where: str) -> np.ndarray:
    rows = value if isinstance(value, list) else []
    if not rows or any(not isinstance(row, list) or not row or len(row) != len(rows[0]) for row in rows):
        raise Mistake(f"{where}: a list of rows, one for each control point, all of one length")
    return np.array([[_number(x, where) for x in row] for row in rows])


def _matrix_or_none(value, where: str) -> np.ndarray | None:
    return None if value is None else _matrix(value, where)


def _place(value, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise Mistake(f"{where}={short(value)}: three numbers, in metres")
    return tuple(_number(x, where) for x in value)


_READERS = {
    "points": _matrix,
    "spread": _matrix_or_none,
    "degree": _whole,
    "where": _place,
    "what": _text,
    "question": _text,
    **dict.fromkeys(("seconds", "level", "after"), _number),
}
