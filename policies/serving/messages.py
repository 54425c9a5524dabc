"""The messages between a robot and its planner, as typed records and as bytes; received bytes are validated.

A body consists of the length of its head (4 bytes, big-endian), the head (JSON: the type, its values and the shapes of
its arrays), and the arrays one after the other, as little-endian float32 or uint8. Nothing in it can be executed.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from worldmodel.mistakes import Mistake
from worldmodel.senses import IMAGE_KEY_PREFIX, Shapes, is_image

VERSION = 7
LARGEST = 1 << 23
"""Maximum size of a body in bytes."""
LONGEST_TEXT = 500
HEAD = struct.Struct(">I")


NO_FRAMES = np.zeros(0, np.uint8)


class WrongMessage(Mistake):
    """Not a valid message; the error line says what is wrong."""


@dataclass(frozen=True)
class Begin:
    """Robot to planner: what the robot will ask about, and how it will interpret the answers.

    An action is for one control step, of which there are `control_hz` per second, and specifies joint targets as
    `control` says. A decision covers at most `every` control steps; its tokens are splines of `degree` with `knots`
    control points over at most `length` steps. `cameras`: names and sizes of the model's cameras (`camera_list`).
    `lags`: which frames of each the model takes (`vision.lags`), separated by commas. `sentence`: the task text. These
    three may be empty. `deadline_ms`: the time limit for a plan (0: the planner's own setting). `robot`: a unique id,
    by which a robot whose planner was taken over by another is recognised when it returns.
    """

    task: str
    state_size: int
    action_size: int
    control: str
    control_hz: float
    every: int
    length: int
    knots: int
    degree: int
    cameras: str = ""
    lags: str = ""
    sentence: str = ""
    deadline_ms: float = 0.0
    robot: str = ""


@dataclass(frozen=True)
class Ready:
    """Planner to robot: the settings agree, and the robot may ask."""


@dataclass(frozen=True)
class Question:
    """Robot to planner: decide from `state` (S,).

    `number` counts up. `fresh`: forget the last plan, since an episode begins, or the arm ran out of plan and stopped.
    `frames` (N,) uint8: the frames (F, H, W, 3) of each camera at Begin's `lags`, flattened and concatenated in the
    order of Begin's cameras (`together`). `there` (C,) uint8: 0 for each camera that currently provides no image.
    """

    number: int
    fresh: bool
    state: np.ndarray
    frames: np.ndarray = field(default_factory=lambda: NO_FRAMES, metadata={"kind": "u1", "dimensions": (1,)})
    there: np.ndarray = field(default_factory=lambda: NO_FRAMES, metadata={"kind": "u1", "dimensions": (1,)})


@dataclass(frozen=True)
class Answer:
    """Planner to robot: `actions` (L, A) in [-1, 1], L <= `every`, and the plan, `tokens` (T, P), that they are from.

    `number`: the question's. `plan_ms`: how long the decision took. `length`: control steps per token, at most Begin's.
    """

    number: int
    plan_ms: float
    length: int
    actions: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Refusal:
    """Either to the other: why it does not go on, in one line."""

    reason: str


@dataclass(frozen=True)
class Replaced:
    """Planner to robot: another robot has taken over; do not reconnect automatically."""


Message = Begin | Ready | Question | Answer | Refusal | Replaced
TYPES: dict[str, type] = {cls.__name__.lower(): cls for cls in (Begin, Ready, Question, Answer, Refusal, Replaced)}


def camera_list(senses: Shapes) -> str:
    """Format the cameras among `senses`, in order, as name:height x width: `front:48x64,wrist:96x96`."""
    frames = {key.removeprefix(IMAGE_KEY_PREFIX): shape for key, shape in senses.items() if is_image(key)}
    return ",".join(f"{camera}:{shape[0]}x{shape[1]}" for camera, shape in frames.items())


def together(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Flatten and concatenate the frames of several cameras, each (F, H, W, 3) uint8, into (N,)."""
    return np.concatenate([NO_FRAMES, *map(np.ravel, frames)])


def apart(row: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Undo `together`: split `row` into arrays of the given shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(row, ends)[:-1], shapes, strict=True)]


def pack(message: Message) -> bytes:
    """Serialise a message. Raises WrongMessage if `unpack` would reject the result."""
    arrays = {f.name: getattr(message, f.name) for f in fields(message) if f.type is np.ndarray}
    plain = {f.name: getattr(message, f.name) for f in fields(message) if f.type is not np.ndarray}
    shapes = {name: list(np.shape(value)) for name, value in arrays.items()}
    head = json.dumps({"type": type(message).__name__.lower(), **plain, "arrays": shapes}).encode()
    kinds = {f.name: f.metadata.get("kind", "<f4") for f in fields(message)}
    body = HEAD.pack(len(head)) + head + b"".join(np.asarray(a, kinds[n]).tobytes() for n, a in arrays.items())
    unpack(body)
    return body


def unpack(body: bytes) -> Message:
    """Parse and validate a message. Raises WrongMessage if anything is amiss."""
    if len(body) > LARGEST:
        raise WrongMessage(f"{len(body)} bytes: at most {LARGEST}")
    if len(body) < HEAD.size or len(body) < HEAD.size + HEAD.unpack_from(body)[0]:
        raise WrongMessage(f"{len(body)} bytes: cut off")
    start = HEAD.size + HEAD.unpack_from(body)[0]
    try:
        head = json.loads(body[HEAD.size : start])
    except (ValueError, RecursionError) as error:
        raise WrongMessage("the head is not JSON") from error
    if not isinstance(head, dict) or not isinstance(head.get("type"), str) or head["type"] not in TYPES:
        raise WrongMessage(f"type: one of {', '.join(TYPES)}")
    cls, shapes = TYPES[head.pop("type")], head.pop("arrays", None)
    wanted = {f.name for f in fields(cls) if f.type is np.ndarray}
    if not isinstance(shapes, dict) or set(shapes) != wanted:
        raise WrongMessage(f"{cls.__name__}.arrays: {', '.join(sorted(wanted)) or 'none'}")
    values = {f.name: _plain(head, f.name, f.type, cls) for f in fields(cls) if f.name not in wanted}
    if extra := head.keys() - values.keys():
        raise WrongMessage(f"{cls.__name__}.{min(extra)}: no such value")
    for found in (f for f in fields(cls) if f.name in wanted):
        where = f"{cls.__name__}.{found.name}"
        values[found.name], start = _array(body, start, shapes[found.name], where, **found.metadata)
    if start != len(body):
        raise WrongMessage(f"{cls.__name__}: {len(body) - start} bytes too many")
    return cls(**values)


def _plain(head: dict, name: str, kind, cls: type):
    value, where = head.get(name), f"{cls.__name__}.{name}"
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else None
    if type(value) is not kind:
        raise WrongMessage(f"{where}: {kind.__name__} is needed")
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or not value.isprintable()):
        raise WrongMessage(f"{where}: one line of at most {LONGEST_TEXT} characters")
    if isinstance(value, int | float) and not 0 <= value < 2**53:
        raise WrongMessage(f"{where}: from 0 to 2^53")
    return value


def _array(
    body: bytes, start: int, shape, where: str, kind: str = "<f4", dimensions: tuple[int, ...] = (1, 2)
) -> tuple[np.ndarray, int]:
    """Return the array that begins at byte `start`, and where it ends. Raises WrongMessage, naming it by `where`."""
    if not isinstance(shape, list) or len(shape) not in dimensions or any(type(n) is not int or n < 0 for n in shape):
        raise WrongMessage(f"{where}: {' or '.join(map(str, dimensions))} dimensions of at least 0")
    if math.prod(max(1, n) for n in shape) > LARGEST:
        raise WrongMessage(f"{where}: no array is so large, {shape}")
    count, one = math.prod(shape), np.dtype(kind).itemsize
    if count * one > len(body) - start:
        raise WrongMessage(f"{where}: cut off")
    array = np.frombuffer(body, kind, count, start).reshape(shape)
    array, size = array.astype(array.dtype.newbyteorder("=")), count * one
    if not np.isfinite(array).all():
        raise WrongMessage(f"{where}: not finite")
    return array, start + size
