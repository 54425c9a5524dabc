"""Conversion of sentences to plain, JSON-serializable data, and back with validation."""

import json
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from reprlib import repr as short

import numpy as np

from policies.tokens.vocabulary import KINDS, Look, Move, Sentence, Token, checked, kind
from worldmodel.errors import UserError
from worldmodel.strict import build


def to_plain(sentence: Iterable[Token]) -> list[dict]:
    """Convert each token to a dict of its kind and its parameters (numbers, strings, lists and None)."""
    return [{"kind": kind(t)} | {f.name: _plain(getattr(t, f.name)) for f in fields(t)} for t in sentence]


def from_plain(data: object) -> Sentence:
    """Parse the output of `to_plain` (or equivalent JSON data) into a sentence.

    Raises ValueError naming the token, what is wrong with it and what is expected.
    """
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
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _token(item) -> Token:
    if not isinstance(item, dict):
        raise UserError(f"{short(item)}: a dict of a kind and its parameters, e.g. {{'kind': 'grip', 'level': 0}}")
    name = item.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"kind={short(name)}: one of {', '.join(KINDS)}")
    values = {key: value for key, value in item.items() if key != "kind"}
    for key in ("points", "spread") if KINDS[name] is Move else ():
        if key in values and (key, values[key]) != ("spread", None):
            values[key] = _matrix(values[key], f"{name}.{key}")
    where = values.get("where") if KINDS[name] is Look else None
    if isinstance(where, list) and len(where) != 3:
        raise UserError(f"{name}.where={short(where)}: three numbers, in metres")
    return build(KINDS[name], values, f"{name}.")


def _matrix(value, where: str) -> np.ndarray:
    rows = value if isinstance(value, list) else []
    if not rows or any(not isinstance(row, list) or not row or len(row) != len(rows[0]) for row in rows):
        raise UserError(f"{where}: a list of rows, one for each control point, all of one length")
    for x in (x for row in rows for x in row):
        if isinstance(x, bool) or not isinstance(x, int | float) or not abs(x) <= sys.float_info.max:
            raise UserError(f"{where}={short(x)}: a finite number")
    return np.array(rows, dtype=float)
