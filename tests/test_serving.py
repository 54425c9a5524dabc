"""The planner on a wire, attacked: garbage, replay, other versions and secrets, floods; and one that goes away."""

import contextlib
import errno
import itertools
import json
import socket
import struct
import sys
import threading
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import policies.serving.link
from policies.agent import Agent
from policies.serving import messages
from policies.serving.connection import Connection
from policies.serving.decider import Decider
from policies.serving.link import Link
from policies.serving.messages import (
    Answer,
    Begin,
    Question,
    Ready,
    Refusal,
    Replaced,
    WrongMessage,
    apart,
    pack,
    together,
    unpack,
)
from policies.serving.sealing import FRAME, HELLO, MAGIC, Refused, Seal, hello, read_secret
from policies.serving.server import MOST, Server
from policies.tokens.curves import Curve
from robot.running.view import sentence
from worldmodel.planner import Planner
from worldmodel.settings import PlannerConfig

SECRET = b"sixteen bytes or more"
BEGIN = Begin("reach", 3, 2, "tied", 30.0, 2, 2, 2, 1)
WAIT_S = 60.0  # a loaded machine
NOISE = np.random.default_rng(0).bytes(4000)


class Echo(Decider):
    """A decider whose curve is the state."""

    def __init__(self):
        self.label = "reach"

    def unfit(self, begin):
        return "" if begin.task == self.label else f"for {self.label}, not {begin.task}"

    def begin(self, begin):
        pass

    def answer(self, ask):
        return Answer(ask.number, 1.0, 2, np.tile(ask.state[:2], (2, 1)), np.zeros((1, 4)))


@pytest.fixture
def server():
    lines = []
    server = Server(("127.0.0.1", 0), SECRET, Echo(), lines.append)
    server.lines = lines
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.close()
    server.close()  # as a second Ctrl-C does
    thread.join(WAIT_S)
    assert not thread.is_alive()


def until(true) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def dial(server):
    """Connects robots; they are hung up on in the end."""
    with contextlib.ExitStack() as stack:

        def dial(secret=SECRET) -> Connection:
            sock = stack.enter_context(socket.create_connection(server.address))
            return Connection(sock, secret, serving=False, patience_s=WAIT_S)

        yield dial


def works(dial) -> bool:
    """Whether an honest robot is still served."""
    connection = dial()
    connection.send(BEGIN)
    assert connection.receive() == Ready()
    connection.send(Question(5, True, np.array([0.25, -1, 3])))
    answer = connection.receive()
    connection.close()
    return answer.number == 5 and answer.actions.tolist() == [[0.25, -1]] * 2


finite = st.floats(-1e6, 1e6, width=32)
drawn = {str: st.text("abc-1", max_size=20), int: st.integers(0, 99), float: st.floats(0, 1e6)}
plain = st.one_of(
    st.builds(Begin, **{field.name: drawn[field.type] for field in fields(Begin)}),
    st.builds(Ready),
    st.builds(Refusal, st.text("abc ", max_size=99)),
    st.builds(Replaced),
)


@given(plain)
def test_what_is_unpacked_is_what_was_packed(message):
    assert unpack(pack(message)) == message


@given(st.integers(0, 2**50), st.booleans(), st.lists(finite, min_size=1, max_size=9))
def test_arrays_come_back_bit_for_bit(number, fresh, state):
    back = unpack(pack(Question(number, fresh, np.array(state, np.float32))))
    assert (back.number, back.fresh) == (number, fresh)
    assert back.state.tobytes() == np.array(state, np.float32).tobytes()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3)), max_size=4))
def test_frames_of_any_sizes_are_the_same_after_they_were_one_row(shapes):
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 255, shape, np.uint8) for shape in shapes]
    question = unpack(pack(Question(1, True, np.ones(3), together(frames), np.ones(len(frames)))))
    for one, other in zip(frames, apart(question.frames, shapes), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.binary(max_size=200))
def test_garbage_is_no_message(body):
    with pytest.raises(WrongMessage):
        unpack(body)


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_message_with_any_byte_changed_is_a_message_or_refused_never_another_error(place, value):
    body = bytearray(pack(Answer(7, 1.5, 2, np.ones((2, 3), np.float32), np.zeros((1, 4), np.float32))))
    body[place % len(body)] = value
    try:
        message = unpack(bytes(body))
    except WrongMessage:
        return
    for array in (message.actions, message.tokens):
        assert np.isfinite(array).all()


@pytest.mark.parametrize("shape", [[2**62, 0], [0, 2**23 + 1], [0, 2**63]])
def test_an_array_of_nothing_that_is_too_large_all_the_same_is_no_message(shape):
    head = {"type": "question", "number": 1, "fresh": True, "arrays": {"state": shape, "frames": [0], "there": [0]}}
    body = json.dumps(head).encode()
    with pytest.raises(WrongMessage, match=r"Question\.state: no array is so large"):
        unpack(messages.HEAD.pack(len(body)) + body)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Question(1, True, np.array([np.nan])), "Question.state: not finite"),
        (Question(-1, True, np.ones(1)), "Question.number: from 0"),
        (Question(1, True, np.ones((2, 2, 2))), "Question.state: 1 or 2 dimensions"),
        (Question(1, True, np.ones(2), np.ones((2, 2))), "Question.frames: 1 dimensions"),
        (replace(BEGIN, task="two\nlines"), "one line"),
        (replace(BEGIN, deadline_ms=float("inf")), "deadline_ms: from 0"),
        (Question(1, True, np.ones(messages.LARGEST // 4)), "bytes: at most"),
    ],
)
def test_what_must_not_be_said_is_not(message, line):
    with pytest.raises(WrongMessage, match=line):
        pack(message)


def pair(secret=SECRET, theirs=SECRET) -> tuple[Seal, Seal]:
    robot, planner = hello(), hello()
    return Seal(secret, robot, planner, serving=False), Seal(theirs, planner, robot, serving=True)


def test_a_seal_opens_in_order_however_the_bytes_arrive():
    robot, planner = pair()
    data = b"".join(robot.seal(Refusal(str(i))) for i in range(3))
    opened = [m.reason for i in range(len(data)) for m in planner.open(data[i : i + 1])]
    assert opened == ["0", "1", "2"]


def attacks():
    def replayed(robot, planner):
        frame = robot.seal(BEGIN)
        return [frame, frame]

    def left_out(robot, planner):
        robot.seal(BEGIN)
        return [robot.seal(BEGIN)]

    def turned_round(robot, planner):
        return [planner.seal(BEGIN)]

    def of_another_connection(robot, planner):
        other, _ = pair()
        return [other.seal(BEGIN)]

    def changed(robot, planner):
        frame = bytearray(robot.seal(BEGIN))
        frame[-1] ^= 1
        return [bytes(frame)]

    def too_long(robot, planner):
        return [FRAME.pack(messages.LARGEST + 1, bytes(32))]

    return [replayed, left_out, turned_round, of_another_connection, changed, too_long]


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.__name__)
def test_a_false_frame_is_refused(attack):
    robot, planner = pair()
    *good, false = attack(robot, planner)
    for frame in good:
        assert list(planner.open(frame)) == [BEGIN]
    with pytest.raises(Refused):
        list(planner.open(false))


def test_another_secret_is_refused_on_both_sides(server, dial):
    connection = dial(b"not the shared secret")
    connection.send(BEGIN)
    with pytest.raises(Refused, match="not authentic: another secret"):
        connection.receive()
    until(lambda: any("refused: a message that is not authentic: another secret" in line for line in server.lines))
    assert works(dial)


@pytest.mark.parametrize(
    ("opening", "line"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "does not speak this protocol"),
        (NOISE, "does not speak this protocol"),
        (HELLO.pack(MAGIC, 99, bytes(16)), f"speaks version 99 of the protocol, this one {messages.VERSION}"),
        (
            HELLO.pack(MAGIC, messages.VERSION, bytes(16)) + struct.pack(">I", 2**32 - 1) + bytes(64),
            "a frame of 4294967295 bytes",
        ),
        (HELLO.pack(MAGIC, messages.VERSION, bytes(16)) + NOISE[:400], "refused"),
        (b"", "hung up"),
    ],
    ids=["http", "noise", "version", "huge", "noise after hello", "silence"],
)
def test_garbage_is_refused_in_one_line_and_others_are_served(server, dial, opening, line):
    with socket.create_connection(server.address) as sock:
        with contextlib.suppress(OSError):  # it may be hung up on before it has said all
            sock.sendall(opening)
            sock.shutdown(socket.SHUT_WR)
        until(lambda: any(line in said for said in server.lines))
    assert all("\n" not in said for said in server.lines)
    assert works(dial)


def test_what_was_recorded_on_one_connection_is_refused_on_another(server):
    robot = hello()
    frames = []
    for _ in range(2):
        with socket.create_connection(server.address) as sock:
            sock.settimeout(WAIT_S)
            sock.sendall(robot)
            planner = sock.recv(HELLO.size, socket.MSG_WAITALL)
            frames = frames or [Seal(SECRET, robot, planner, serving=False).seal(BEGIN)]
            sock.sendall(frames[0])
            until(lambda: server.lines)
        if "a robot" in server.lines[0]:
            until(lambda: len(server.lines) > 1)  # it has gone
            server.lines.clear()
    until(lambda: any("not authentic" in line for line in server.lines))


@pytest.mark.parametrize("opening", [b"", hello() + FRAME.pack(3000, bytes(32))], ids=["hello", "frame"])
def test_many_who_say_next_to_nothing_do_not_keep_a_robot_out_for_good(server, dial, monkeypatch, opening):
    monkeypatch.setattr("policies.serving.server.HANDSHAKE_S", 0.5)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.address)) for _ in range(30)]
        for sock in slow:
            with contextlib.suppress(OSError):  # it is one too many
                sock.sendall(opening)
        until(lambda: any("others are connecting" in line for line in server.lines))

        def trickled() -> bool:
            """A byte more from each; whether all have been hung up on."""
            time.sleep(0.05)
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"S")
            return sum("refused" in line for line in server.lines) == 30

        until(trickled)
        assert sum("timed out" in line for line in server.lines) >= MOST
        assert works(dial)


def test_any_begin_fits_into_the_frame_of_a_stranger_and_a_large_one_is_refused_at_once():
    longest = "\U0001f600" * messages.LONGEST_TEXT
    largest = replace(BEGIN, task=longest, control=longest, cameras=longest, sentence=longest)
    robot, planner = pair()
    assert list(planner.open(robot.seal(largest))) == [largest]
    _, planner = pair()
    with pytest.raises(Refused, match="a frame of 40000 bytes; at most 32768"):
        list(planner.open(FRAME.pack(40000, bytes(32))))


def test_the_newest_robot_takes_over_and_a_wrong_task_is_told(server, dial):
    first, second = dial(), dial()
    first.send(BEGIN)
    first.receive()
    second.send(BEGIN)
    assert second.receive() == Ready()
    assert first.receive() == Replaced()
    with pytest.raises(OSError, match="hung up"):
        first.receive()
    third = dial()
    third.send(replace(BEGIN, task="walk"))
    assert third.receive() == Refusal("for reach, not walk")
    stray = dial()
    stray.send(Question(1, True, np.ones(3)))
    assert stray.receive() == Refusal("Question: Begin comes first")
    second.send(Question(7, True, np.ones(3)))
    assert second.receive().number == 7
    until(lambda: server.refused == 2)


def test_a_robot_that_another_took_over_from_does_not_take_the_planner_back(server):
    said = []
    first, second = link_to(server, said), link_to(server, said)
    first.connect()
    second.connect()
    until(lambda: first.poll() == [] and first.gone())
    assert first.gone() == "the planner is gone: another robot took over"
    time.sleep(2 * policies.serving.link.AGAIN_S)
    second.ask(np.ones(3), True)
    until(second.poll)
    assert (first.losses, second.losses, said) == (1, 0, [])
    first.close()
    second.close()


def test_a_robot_that_was_lost_when_another_took_over_does_not_take_the_planner_back(server, monkeypatch):
    monkeypatch.setattr(policies.serving.link, "AGAIN_S", 0.01)
    said = []
    first, second = link_to(server, said), link_to(server, said)
    first.connect()
    first._connection._socket.shutdown(socket.SHUT_RDWR)  # as a tunnel that was restarted
    second.connect()
    until(lambda: first.poll() == [] and first.gone())
    assert first.gone() == "the planner is gone: another robot took over"
    second.ask(np.ones(3), True)
    until(second.poll)
    assert second.losses == 0
    first.close()
    second.close()


def test_a_robot_that_takes_no_leave_is_hung_up_on(server, dial, monkeypatch):
    monkeypatch.setattr("policies.serving.server.LEAVE_S", 0.2)
    answering = threading.Event()
    monkeypatch.setattr(server._decider, "answer", lambda ask: answering.wait(WAIT_S) and Refusal("late"))
    first, second = dial(), dial()
    first.send(BEGIN)
    first.receive()
    first.send(Question(1, True, np.ones(3)))
    second.send(BEGIN)
    with pytest.raises((OSError, Refused)):
        first.receive()
    answering.set()
    assert second.receive() == Ready()


def test_a_message_out_of_turn_ends_the_talk_in_one_line(server, dial):
    connection = dial()
    connection.send(Question(1, True, np.ones(3)))
    assert connection.receive() == Refusal("Question: Begin comes first")
    assert works(dial)


def link_to(server, said, **keys) -> Link:
    return Link(lambda: socket.create_connection(server.address), SECRET, BEGIN, said.append, **keys)


def test_a_link_never_waits_and_finds_a_lost_planner_again(server):
    said = []
    link = link_to(server, said)
    link.connect()
    assert link.poll() == []
    answers = []

    def answered() -> bool:
        answers.extend(link.poll())
        return bool(answers)

    number = link.ask(np.ones(3), True)
    until(answered)
    assert answers[0].number == number
    server._current.close()  # the cable
    until(lambda: link.poll() == [] and not link.connected())
    assert link.ask(np.ones(3), True) is None
    until(link.connected)
    assert link.losses == 1
    assert said == [f"the planner is lost: {link.reason}; connecting again"]
    answers.clear()
    number = link.ask(np.ones(3), True)
    until(answered)
    assert answers[0].number == number
    link.close()


def test_a_planner_that_is_found_in_the_midst_of_looking_is_not_lost(monkeypatch):
    monkeypatch.setattr("policies.serving.link.AGAIN_S", 0)
    sys._getframe().f_trace_opcodes = True  # else the first `settrace` would not see any
    before, counts = sys.gettrace(), []
    for moment in range(99):
        link, left = Link(socket.socket, SECRET, BEGIN, print), itertools.count(moment, -1)
        monkeypatch.setattr(link, "_open", object)

        def trace(frame, event, arg, link=link, left=left):
            frame.f_trace_opcodes = frame.f_code.co_filename == policies.serving.link.__file__
            if event == "opcode" and next(left) == 0:
                link._reconnect()
            return trace

        sys.settrace(trace)
        link.connected()
        sys.settrace(before)
        counts.append(moment - next(left))
        assert link.connected() == (counts[-1] > moment)
    assert 5 < max(counts) < 99


@pytest.mark.parametrize(
    ("actions", "tokens", "length", "line"),
    [
        ((2,), (1, 4), 2, r"the actions of its plan are of shape (2,), not (1 to 2, 2)"),
        ((2, 1), (1, 4), 2, r"the actions of its plan are of shape (2, 1), not (1 to 2, 2)"),
        ((0, 2), (1, 4), 2, r"the actions of its plan are of shape (0, 2), not (1 to 2, 2)"),
        ((3, 2), (1, 4), 2, r"the actions of its plan are of shape (3, 2), not (1 to 2, 2)"),
        ((2, 2), (4,), 2, r"the tokens of its plan are of shape (4,), not (1 to 100, 4)"),
        ((2, 2), (1, 3), 2, r"the tokens of its plan are of shape (1, 3), not (1 to 100, 4)"),
        ((2, 2), (101, 4), 2, r"the tokens of its plan are of shape (101, 4), not (1 to 100, 4)"),
        ((2, 2), (1, 4), 0, "the tokens of its plan last 0 control steps, not 1 to 2"),
        ((2, 2), (1, 4), 3, "the tokens of its plan last 3 control steps, not 1 to 2"),
    ],
)
def test_a_plan_that_the_arm_cannot_follow_is_never_given_to_it(server, monkeypatch, actions, tokens, length, line):
    wrong = Answer(1, 1.0, length, np.zeros(actions), np.zeros(tokens))
    monkeypatch.setattr(server._decider, "answer", lambda ask: wrong)
    link = link_to(server, [])
    link.connect()
    link.ask(np.ones(3), True)
    until(lambda: link.poll() == [] and link.gone())
    assert link.gone() == f"the planner is gone: {line}"
    link.close()


def test_a_person_is_shown_for_how_long_each_token_lasts(toys):
    token = toys.token_settings(4)
    curve = Curve.of_token(token, 2)
    decider = Decider(
        Agent(toys.tiny_model(3, curve.size, token=token), curve, None, torch.Generator()), "reach", "tied", 30.0
    )
    answer = unpack(pack(decider.answer(Question(1, True, np.ones(3, np.float32)))))
    assert sentence(SimpleNamespace(answer=answer), token, 30.0) == f"move({4 / 30:.3g} s)" and len(answer.actions) == 4


def test_a_planner_that_owes_an_answer_is_asked_no_more_and_is_gone_in_the_end(server, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr(server._decider, "answer", lambda ask: waiting.wait(WAIT_S) and Refusal("late"))
    link = Link(lambda: socket.create_connection(server.address), SECRET, BEGIN, print, away_s=0.3)
    link.connect()
    number = link.ask(np.ones(3), True)
    assert link.ask(np.ones(3), True) is None
    assert link.awaits(number) and not link.awaits(number + 1)
    assert link.gone() == ""
    until(link.gone)
    assert link.gone() == "the planner is gone: no answer for 0.3 s"
    waiting.set()
    link.close()


def test_a_planner_that_is_found_again_and_never_answers_is_gone_in_the_end(server, monkeypatch):
    monkeypatch.setattr(policies.serving.link, "AGAIN_S", 0.01)
    monkeypatch.setattr(server._decider, "answer", lambda ask: Refusal("no plan"))
    link = link_to(server, [], away_s=0.5)
    link.connect()
    until(lambda: link.ask(np.ones(3), True) is None and link.poll() == [] and link.gone())
    assert link.gone() == "the planner is gone: no plan"
    assert link.losses > 1
    link.close()


def test_a_planner_that_answers_between_its_losses_is_never_gone(server, monkeypatch):
    monkeypatch.setattr(policies.serving.link, "AGAIN_S", 0.01)
    link = link_to(server, [], away_s=30.0)
    link.connect()
    began = []
    for _ in range(3):
        until(lambda: link.ask(np.ones(3), True))
        until(link.poll)
        assert link.gone() == ""
        server._current.close()
        until(lambda: link.poll() == [] and not link.connected())
        began.append(link._lost_at)
    assert began == sorted(set(began))
    link.close()


def test_a_state_that_leaves_no_plan_is_refused_in_a_line(toys):
    curve = Curve.of_token(toys.token_settings(4), 2)
    model = toys.tiny_model(3, curve.size, token=toys.token_settings(4))
    planner = Planner(model, 0.9, PlannerConfig(samples=8, policy_samples=4, elites=4))
    decider = Decider(Agent(model, curve, planner, torch.Generator()), "reach", "tied", 30.0)
    answer = decider.answer(Question(1, True, np.full(3, np.nan, np.float32)))
    assert isinstance(answer, Refusal) and answer.reason.startswith("no candidate plan has a finite return")
    assert isinstance(decider.answer(Question(2, True, np.zeros(3, np.float32))), Answer)


def test_who_hangs_up_while_shaking_hands_has_refused_nothing():
    """So that a command ends as where a connection is reset: it may work at another time."""
    ours, theirs = socket.socketpair()
    theirs.shutdown(socket.SHUT_WR)  # it still takes our hello
    with ours, theirs, pytest.raises(ConnectionError) as raised:
        Connection(ours, SECRET, serving=False, patience_s=WAIT_S)
    assert not isinstance(raised.value, Refused)


def test_a_refusal_of_any_length_arrives(server, dial, monkeypatch):
    monkeypatch.setattr(server._decider, "unfit", lambda begin: "x" * 2000)
    connection = dial()
    connection.send(BEGIN)
    assert connection.receive() == Refusal("x" * 500)


def test_a_link_that_is_closed_while_it_connects_again_leaves_nothing_open(server):
    reached, go = threading.Event(), threading.Event()

    def reach():
        if link.losses:
            reached.set()
            go.wait(WAIT_S)
        return socket.create_connection(server.address)

    link = Link(reach, SECRET, BEGIN, [].append)
    link.connect()
    server._current.close()
    until(lambda: link.poll() == [] and not link.connected())
    assert reached.wait(WAIT_S)
    link.close()
    go.set()
    until(lambda: [sum(word in line for line in server.lines) for word in (": a robot", ": gone")] == [2, 2])


def test_a_server_that_cannot_let_a_robot_in_says_so_once_and_goes_on(server, dial, monkeypatch):
    listener, failures = server._listener, [OSError(errno.EMFILE, "Too many open files")] * 3

    class Failing:
        def accept(self):
            if failures:
                raise failures.pop()
            return listener.accept()

        def __getattr__(self, name):
            return getattr(listener, name)

    server._listener = Failing()
    assert works(dial)  # the call that waited
    assert works(dial)
    assert not failures
    assert sum("a robot cannot be let in: [Errno 24] Too many open files" in line for line in server.lines) == 1


def test_a_planner_that_refuses_says_why(server):
    link = Link(lambda: socket.create_connection(server.address), SECRET, replace(BEGIN, task="walk"), print)
    with pytest.raises(Refused, match="for reach, not walk"):
        link.connect()


def test_a_secret_is_a_file_that_only_its_owner_reads(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    assert read_secret(path) == SECRET
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="5 bytes; 16 to 4096"):
        read_secret(path)
    path.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        read_secret(path)
    with pytest.raises(ValueError, match=r"^secret=.*none: no such file"):
        read_secret(tmp_path / "none")


def test_what_is_too_much_for_the_line_leaves_in_time_and_loses_nobody(server, monkeypatch):
    monkeypatch.setattr("policies.serving.connection.ROOM", 4096)
    said, answers = [], []
    link = link_to(server, said)
    link.connect()
    frames = [np.zeros((1, *size, 3), np.uint8) for size in ((700, 700), (500, 980), (980, 500), (490, 1000))]
    number = link.ask(np.ones(3), True, frames, np.ones(4))

    def answered() -> bool:
        answers.extend(link.poll())
        return bool(answers)

    refused = sum(link.ask(np.ones(3), True, frames, np.ones(4)) is None for _ in range(20))  # still on its way
    until(answered)
    assert number == 1
    assert refused > 0
    assert (link.losses, said) == (0, [])
    link.close()


def test_a_line_on_which_nothing_moves_is_given_up(server, monkeypatch):
    monkeypatch.setattr("policies.serving.connection.ROOM", 4096)
    ours, theirs = socket.socketpair()
    made = []
    with theirs:
        thread = threading.Thread(target=lambda: made.append(Connection(theirs, SECRET, True, WAIT_S)))
        thread.start()
        connection = Connection(ours, SECRET, False, WAIT_S)
        thread.join()
        connection.hurried()
        connection.send(Question(1, True, np.ones(3), np.zeros(4 * 700 * 700 * 3, np.uint8), np.ones(4)))
        monkeypatch.setattr("policies.serving.connection.STUCK_S", 0.0)
        time.sleep(0.01)
        with pytest.raises(ConnectionError, match="has not read for"):
            connection.poll()
        connection.close()


def test_what_came_before_a_false_message_is_given_out_and_then_the_fault_is_told():
    ours, theirs = socket.socketpair()
    made = []
    with ours, theirs:
        thread = threading.Thread(target=lambda: made.append(Connection(theirs, SECRET, True, WAIT_S)))
        thread.start()
        connection = Connection(ours, SECRET, False, WAIT_S)
        thread.join()
        connection.hurried()
        made[0].send(Ready())
        theirs.sendall(FRAME.pack(100, bytes(32)) + NOISE[:100])
        assert connection.poll() == [Ready()]
        for _ in range(2):
            with pytest.raises(Refused, match="not authentic"):
                connection.poll()
