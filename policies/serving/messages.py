"""What a robot and its planner say to each other, as typed records and as bytes; what comes back is checked.

A body is: the length of its head (4 bytes, big-endian), the head (JSON: the type, its values, the shapes of its
arrays), then the arrays one after the other, float32, little-endian, or bytes. Nothing in it can be executed.
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
"""Bytes of the largest body."""
LONGEST_TEXT = 500
HEAD = struct.Struct(">I")


NO_FRAMES = np.zeros(0, np.uint8)


class WrongMessage(Mistake):
    """Bytes that are no message; the line says what is wrong."""


@dataclass(frozen=True)
class Begin:
    """The robot: what it will ask about, and how it will read the answers.

    An action is for one control step, of which there are `control_hz` a second, and says where the joints go as
    `control` has it. A decision covers at most `every` control steps; its tokens are splines of `degree` with `knots`
    control points over at most `length` steps. `cameras`: the names and sizes of the model's (`camera_list`), and
    `lags`, with commas, which frames of each it looks at (`vision.lags`); `sentence`: what to do, in words. All three
    may be empty. A plan is due within `deadline_ms` (0: the planner's own setting). `robot`: who it is, a text that no
    other has, so that a robot whose planner another took over is known when it comes again.
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
    """The planner: it is of one mind with the robot, which may ask."""


@dataclass(frozen=True)
class Question:
    """The robot: decide from `state` (S,). `number` counts up; `fresh`: forget the last plan, for an
    episode begins, or that plan was not followed to its end in time, so that the arm stopped.

    `frames` (N,) uint8: of each camera, in the order of Begin, those that the model looks at, (F, H, W, 3), as long
    ago as Begin's `lags` say, one camera's after the other's (`together`); `there` (C,) uint8: 0 for a camera that
    shows nothing now.
    """

    number: int
    fresh: bool
    state: np.ndarray
    frames: np.ndarray = field(default_factory=lambda: NO_FRAMES, metadata={"kind": "u1", "dimensions": (1,)})
    there: np.ndarray = field(default_factory=lambda: NO_FRAMES, metadata={"kind": "u1", "dimensions": (1,)})


@dataclass(frozen=True)
class Answer:
    """The planner: `actions` (L, A) in [-1, 1], L <= `every`, the sentence (T, P) they are from, how long it took.

    Each token of the sentence lasts `length` control steps, at most Begin's `length`.
    """

    number: int
    plan_ms: float
    length: int
    actions: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Refusal:
    """Either: why it goes no further, in one line."""

    reason: str


@dataclass(frozen=True)
class Replaced:
    """The planner: another robot has it now; this one is not to come again by itself."""


Message = Begin | Ready | Question | Answer | Refusal | Replaced
TYPES: dict[str, type] = {cls.__name__.lower(): cls for cls in (Begin, Ready, Question, Answer, Refusal, Replaced)}


def camera_list(senses: Shapes) -> str:
    """The cameras of a model that perceives these, in their order: `front:48x64,wrist:96x96`, height by width."""
    frames = {key.removeprefix(IMAGE_KEY_PREFIX): shape for key, shape in senses.items() if is_image(key)}
    return ",".join(f"{camera}:{shape[0]}x{shape[1]}" for camera, shape in frames.items())


def together(frames: Sequence[np.ndarray]) -> np.ndarray:
    """The frames of several cameras, each (F, H, W, 3), as one row of bytes (N,)."""
    return np.concatenate([NO_FRAMES, *map(np.ravel, frames)])


def apart(row: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """What `together` put together, by the shapes of its parts."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(row, ends)[:-1], shapes, strict=True)]


def pack(message: Message) -> bytes:
    """The message as bytes. Raises WrongMessage where `unpack` would."""
    arrays = {f.name: getattr(message, f.name) for f in fields(message) if f.type is np.ndarray}
    plain = {f.name: getattr(message, f.name) for f in fields(message) if f.type is not np.ndarray}
    shapes = {name: list(np.shape(value)) for name, value in arrays.items()}
    head = json.dumps({"type": type(message).__name__.lower(), **plain, "arrays": shapes}).encode()
    kinds = {f.name: f.metadata.get("kind", "<f4") for f in fields(message)}
    body = HEAD.pack(len(head)) + head + b"".join(np.asarray(a, kinds[n]).tobytes() for n, a in arrays.items())
    unpack(body)
    return body


def unpack(body: bytes) -> Message:
    """The message of such bytes. Raises WrongMessage."""
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


def _plain(head: dict, name: str, kind: type, cls: type):
    value, where = head.get(name), f"{cls.__name__}.{name}"
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else None
    if type(value) is not kind:
        raise WrongMessage(f"{where}: {kind.__name__} is needed")
    if kind is str and (len(value) > LONGEST_TEXT or not value.isprintable()):
        raise WrongMessage(f"{where}: one line of at most {LONGEST_TEXT} characters")
    if kind in (int, float) and not 0 <= value < 2**53:
        raise WrongMessage(f"{where}: from 0 to 2^53")
    return value


def _array(
    body: bytes, start: int, shape, where: str, kind: str = "<f4", dimensions: tuple[int, ...] = (1, 2)
) -> tuple[np.ndarray, int]:
    """The array that begins at `start`, and where it ends."""
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
