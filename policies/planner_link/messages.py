"""The messages between a robot and its planner, and how they are sent over a stream socket.

A frame is MAGIC, the length of the body (4 bytes, big-endian), and the body: the bytes of a safetensors file with the
message's arrays as its tensors and the rest as JSON in its metadata. Nothing in it can be executed. Received messages
are checked completely, each once.
"""

import json
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from worldmodel.errors import UserError

MAGIC = b"SGMA"
HEAD = struct.Struct(">4sI")
LARGEST = 1 << 23  # maximum size of a body in bytes
LONGEST_TEXT = 500
ASKED = "asked"  # where a run's page has the last question, under its address
CHUNK = 1 << 16
VECTOR, MATRIX = ({"dtype": np.float32, "ndim": ndim} for ndim in (1, 2))  # how arrays are checked
FRAMES, MASK = {"dtype": np.uint8, "ndim": 4}, {"dtype": np.bool_, "ndim": 1}


class WrongMessage(UserError):
    """Not a valid message; the error line says what is wrong."""


class Refused(UserError, ConnectionError):
    """The other side refuses to go on; the error line says why. `final`: it will not change its mind."""

    def __init__(self, reason: str, final: bool = False):
        """Store the reason, and whether to connect again makes sense."""
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Begin:
    """Robot to planner, first: what the robot will ask about, and how it will interpret the answers.

    An action is for one control step, of which there are `control_hz` per second, and specifies joint targets as
    `control` says. A decision covers at most `every` control steps; its tokens are splines of `degree` with
    `control_points` over at most `length` steps. `cameras`: names and sizes of the model's cameras, `front:48x64,...`.
    `lags`: which frames of each the model takes (`vision.frame_lags`), separated by commas.

    The robot's own: `sentence`: the task text. `deadline_ms`: the time limit for a plan (0: the planner's own setting).
    `robot`: a unique id. `resumes`: whether this robot was connected before; another may have replaced it since.
    """

    task: str
    state_size: int
    action_size: int
    control: str
    control_hz: float
    every: int
    length: int
    control_points: int
    degree: int
    cameras: str = ""
    lags: str = ""
    sentence: str = ""
    deadline_ms: float = 0.0
    robot: str = ""
    resumes: bool = False


OWN = {"sentence", "deadline_ms", "robot", "resumes"}
"""What each robot chooses by itself; all else in a Begin must be the same for its planner."""


@dataclass(frozen=True)
class Ready:
    """Planner to robot: the settings agree, and the robot may ask."""


@dataclass(frozen=True)
class Question:
    """Robot to planner: decide from `state` (S,).

    `number` counts up. `fresh`: forget the last plan, since an episode begins, or the arm ran out of plan and stopped.
    `reply`: the answer to what the planner asked.
    `frames`: those of each camera, (F, H, W, 3) uint8, in the order of Begin's cameras. `present` (C,): whether each
    camera provides images now. `episode`, `frame`: those of the control step at which the plan is to begin.
    """

    number: int
    fresh: bool
    state: np.ndarray = field(metadata=VECTOR)
    frames: tuple[np.ndarray, ...] = field(default=(), metadata=FRAMES)
    present: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), metadata=MASK)
    episode: int = 0
    frame: int = 0
    reply: str = ""


@dataclass(frozen=True)
class Answer:
    """Planner to robot: `actions` (L, A) in [-1, 1], L <= `every`, and the plan, `tokens` (T, P), that they are from.

    `number`: the question's. `plan_ms`: how long the decision took. `length`: control steps per token, at most Begin's.
    `rung`: what the robot is to do instead (`policies.ladder.CARRIED`), if anything; `why`: what was done or
    is asked, in a line; `choices`: the answers to it, a list in JSON; `gauges` (G,): of alarms, if known.
    """

    number: int
    plan_ms: float
    length: int
    actions: np.ndarray = field(metadata=MATRIX)
    tokens: np.ndarray = field(metadata=MATRIX)
    rung: str = ""
    why: str = ""
    choices: str = ""
    gauges: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), metadata=VECTOR)


@dataclass(frozen=True)
class Refusal:
    """Planner to robot: why it does not go on, in one line. `final`: do not connect again."""

    reason: str
    final: bool = False

    @classmethod
    def of(cls, error: Exception) -> "Refusal":
        """Return the refusal that tells an error, whatever its text holds."""
        return cls(one_line(error) or type(error).__name__, getattr(error, "final", False))


def one_line(said: object) -> str:
    """Return what a message can carry of a text, whatever it holds."""
    line = "".join(c if c.isprintable() or c.isspace() else "?" for c in str(said))
    return " ".join(line.split())[:LONGEST_TEXT]


Message = Begin | Ready | Question | Answer | Refusal
TYPES: dict[str, type] = {cls.__name__: cls for cls in (Begin, Ready, Question, Answer, Refusal)}


def incompatible(planner: Begin, robot: Begin) -> str:
    """Describe where a planner's settings and a robot's differ, so that an action would mean something else; or ""."""
    pairs = ((f.name, getattr(planner, f.name), getattr(robot, f.name)) for f in fields(Begin) if f.name not in OWN)
    differing = "; ".join(f"{name} is {a or 'none'}, the robot's {b or 'none'}" for name, a, b in pairs if a != b)
    return f"this planner is for another checkpoint than the robot's: {differing}" if differing else ""


def encode(message: Message) -> bytes:
    """Return a message's frame. Raises WrongMessage for what `receive` would refuse."""
    cls, plain, arrays = type(message), {}, {}
    for each in fields(cls):
        value = getattr(message, each.name)
        if not each.metadata:
            plain[each.name] = value
        elif each.name != "frames":
            arrays[each.name] = np.ascontiguousarray(value, each.metadata["dtype"])
        else:
            arrays |= {f"frames.{i}": np.ascontiguousarray(part, np.uint8) for i, part in enumerate(value)}
    _check(cls, plain | arrays)
    body = save(arrays, {"message": json.dumps({"type": cls.__name__, **plain})})
    if len(body) > LARGEST:
        raise WrongMessage(f"{cls.__name__}: {len(body)} bytes; at most {LARGEST}")
    return HEAD.pack(MAGIC, len(body)) + body


def decode(body: bytes) -> Message:
    """Return the message with this body. Raises WrongMessage if anything is amiss."""
    try:
        metadata = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
        plain = json.loads(metadata.pop("message"))
        cls = TYPES[plain.pop("type")]
        values = metadata | plain | load(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise WrongMessage("not a message") from error
    _check(cls, values)
    if cls is Question:
        values["frames"] = tuple(values.pop(key) for key in _frames(values))
    return cls(**values)


def unframed(data: bytes) -> Message:
    """Return the message of a whole frame. Raises WrongMessage."""
    if data[: len(MAGIC)] != MAGIC:
        raise WrongMessage("not a message")
    return decode(data[HEAD.size :])


def send(sock: socket.socket, message: Message) -> None:
    """Send a message, blocking. Raises WrongMessage or OSError."""
    sock.sendall(encode(message))


def receive(sock: socket.socket, deadline: float | None = None) -> Message:
    """Wait for the next message, until `deadline` (of `time.monotonic`). Raises WrongMessage or OSError."""
    magic, length = HEAD.unpack(_read(sock, HEAD.size, deadline))
    if magic != MAGIC:
        raise WrongMessage("the other side does not speak this version of this protocol")
    if length > LARGEST:
        raise WrongMessage(f"a message of {length} bytes; at most {LARGEST}")
    return decode(_read(sock, length, deadline))


def hang_up(sock: socket.socket | None) -> None:
    """Shut a socket down, whose other users are then woken by an error."""
    if sock is not None:
        with suppress(OSError):  # it may be closed already
            sock.shutdown(socket.SHUT_RDWR)


def _read(sock: socket.socket, count: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(left)
        part = sock.recv(min(count - len(data), CHUNK))
        if not part:
            raise ConnectionError("the other side hung up")
        data += part
    sock.settimeout(None)
    return bytes(data)


def _frames(values: dict) -> list[str]:
    """Return the keys of a Question's frames, in order."""
    return [key for i in range(len(values)) if (key := f"frames.{i}") in values]


def _check(cls: type, values: dict) -> None:
    """Raise WrongMessage unless `values` are all that a message has: plain fields, arrays, each of the frames."""
    left = dict(values)
    for each in fields(cls):
        for key in _frames(values) if each.name == "frames" else [each.name]:
            value, where, kind = left.pop(key, None), f"{cls.__name__}.{key}", cast(type, each.type)
            if each.metadata:
                dtype, ndim = each.metadata["dtype"], each.metadata["ndim"]
                if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != ndim:
                    raise WrongMessage(f"{where}: {ndim} dimensions of {dtype.__name__} are needed")
                if dtype is np.float32 and not np.isfinite(value).all():
                    raise WrongMessage(f"{where}: not finite")
            elif type(value) is not kind:
                raise WrongMessage(f"{where}: {kind.__name__} is needed")
            elif isinstance(value, str) and (len(value) > LONGEST_TEXT or not value.isprintable()):
                raise WrongMessage(f"{where}: one line of at most {LONGEST_TEXT} characters")
            elif isinstance(value, int | float) and not 0 <= value < 2**53:
                raise WrongMessage(f"{where}: from 0 to 2^53")
    if left:
        raise WrongMessage(f"{cls.__name__}: unknown field {ascii(next(iter(left)))[:40]}")
