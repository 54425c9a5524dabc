"""Laws of the messages to a planner: what is sent is what is received, and anything else is refused in one line."""

import contextlib
import itertools
import json
import socket
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from policies.planner_link.messages import (
    HEAD,
    LARGEST,
    LONGEST_TEXT,
    MAGIC,
    OWN,
    Answer,
    Begin,
    Question,
    Ready,
    Refusal,
    Refused,
    WrongMessage,
    decode,
    encode,
    incompatible,
    receive,
)
from worldmodel.errors import UserError

BEGIN = Begin("reach", 3, 2, "delta", 30.0, 2, 2, 2, 1)
ANSWER = Answer(7, 1.5, 2, np.ones((2, 2), np.float32), np.zeros((1, 4), np.float32))
SOON_S = 5.0  # a loaded machine

drawn = {str: st.text("abc-1é😀", max_size=99), int: st.integers(0, 2**53 - 1), float: st.floats(0, 1e9)}
drawn |= {bool: st.booleans()}
size, real = st.integers(0, 4), st.floats(-1e6, 1e6, width=32)
matrix = arrays(np.float32, st.tuples(size, size), elements=real)
frames = st.lists(arrays(np.uint8, st.tuples(size, size, size, size)), max_size=12).map(tuple)
shaped = {"state": arrays(np.float32, size, elements=real), "frames": frames, "present": arrays(bool, size)}
shaped |= {"actions": matrix, "tokens": matrix, "gauges": shaped["state"]}
any_message = st.one_of(  # a type and its arguments: to make it within a strategy, beartype would draw random numbers
    st.tuples(st.just(kind), *(shaped[f.name] if f.metadata else drawn[f.type] for f in fields(kind)))
    for kind in (Begin, Ready, Refusal, Question, Answer)
)


def plain(message):
    """A message as data that can be compared: arrays by their type, shape and bytes."""
    values = [getattr(message, field.name) for field in fields(message)]
    flat = itertools.chain.from_iterable(value if type(value) is tuple else [value] for value in values)
    return type(message), [(v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in flat]


def over_a_socket(data: bytes, deadline=None, count=1):
    """The messages received of `data`, after which the other side hangs up, or is silent until the deadline."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        if deadline is None:
            theirs.shutdown(socket.SHUT_WR)
        return [receive(ours, deadline) for _ in range(count)]


@given(any_message)
def test_what_is_received_is_what_was_sent_one_by_one(message):
    message = message[0](*message[1:])
    received = over_a_socket(encode(message) + encode(BEGIN), count=2)
    assert list(map(plain, received)) == [plain(message), plain(BEGIN)]


def test_a_frame_that_was_cut_is_of_another_version_or_too_long_is_not_received():
    frame, soon = encode(BEGIN), time.monotonic() + 0.1
    for end in range(len(frame)):
        with pytest.raises(ConnectionError, match="hung up"):
            over_a_socket(frame[:end])
    for bit in range(8 * len(MAGIC)):
        other = bytearray(frame)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WrongMessage, match="this version"):
            over_a_socket(bytes(other))
    with pytest.raises(WrongMessage, match=f"^a message of {LARGEST + 1} bytes; at most {LARGEST}$"):
        over_a_socket(HEAD.pack(MAGIC, LARGEST + 1), time.monotonic() + 60)  # before anything of it is read
    with pytest.raises(TimeoutError, match="timed out"):
        over_a_socket(HEAD.pack(MAGIC, LARGEST) + b"a", soon)
    assert soon <= time.monotonic() < soon + SOON_S


@given(st.text(max_size=600))
def test_any_error_is_told_in_one_line(reason):
    refusal = Refusal.of(Refused(reason, final=True))
    assert refusal.final and plain(over_a_socket(encode(refusal))[0]) == plain(refusal)
    assert Refusal.of(UserError("no plan:\n  NaN\x1b")).reason == "no plan: NaN?"
    assert Refusal.of(OSError()) == Refusal("OSError")


@settings(max_examples=300)
@given(any_message, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_bytes_are_a_valid_message_or_refused_in_one_line(message, changes):
    body = bytearray(encode(message[0](*message[1:]))[HEAD.size :])
    for place, value in changes:
        body[place % len(body)] = value
    with contextlib.suppress(WrongMessage):
        again = decode(bytes(body))
        assert plain(decode(encode(again)[HEAD.size :])) == plain(again)  # so it is valid


def body(**changes) -> bytes:
    """An answer's body with other metadata or arrays (None: without)."""
    given = {"type": "Answer", "number": 7, "plan_ms": 1.5, "length": 2, "actions": ANSWER.actions}
    given |= {"rung": "", "why": "", "choices": "", "gauges": ANSWER.gauges}
    given = {k: v for k, v in (given | {"tokens": ANSWER.tokens} | changes).items() if v is not None}
    tensors = {k: v for k, v in given.items() if isinstance(v, np.ndarray)}
    return save(tensors, {"message": json.dumps({k: v for k, v in given.items() if k not in tensors})})


WRONG = {  # what is said of a body: the body
    "^not a message": body(type="Attack"),
    "^Answer: unknown field 'surprise'": body(surprise=1),
    r"^Answer\.length: int is needed": body(length=None),
    r"^Answer\.number: from 0 to 2\^53": body(number=2**53),
    r"^Answer\.actions: 2 dimensions of float32": body(actions=np.ones((2, 2))),
    r"^Answer\.tokens: not finite": body(tokens=np.full((1, 4), np.nan, np.float32)),
    "one line": save({}, {"message": '{"type":"Refusal","reason":"a\\nb","final":false}'}),
    "^not a me": save({}, {"message": "[" * 100_000}),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_is_not_exactly_a_message_is_refused_in_one_line_that_says_why(why):
    with pytest.raises(WrongMessage, match=why) as refused:
        decode(WRONG[why])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "message",
    [
        Question(1, True, np.array([np.nan])),
        Question(1, True, np.ones(LARGEST // 4)),
        replace(BEGIN, task="two\nlines"),
        replace(BEGIN, task="a" * (LONGEST_TEXT + 1)),
    ],
)
def test_what_would_be_refused_is_not_sent(message):
    with pytest.raises(WrongMessage):
        encode(message)


@pytest.mark.parametrize("field", [f.name for f in fields(Begin) if f.name not in OWN])
def test_each_setting_that_gives_an_action_another_meaning_must_agree(field):
    value = getattr(BEGIN, field)
    other = replace(BEGIN, **{field: value + "x" if isinstance(value, str) else value + 1})
    assert incompatible(BEGIN, replace(BEGIN, sentence="a", deadline_ms=9.0, robot="b", resumes=True)) == ""
    assert f"{field} is " in incompatible(BEGIN, other) and "\n" not in incompatible(BEGIN, other)
