"""Laws of the link to a planner: messages, attacks, a planner or a robot that hangs, dies or is replaced."""

import contextlib
import itertools
import json
import os
import signal
import socket
import stat
import threading
import time
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from configs.arm import planning
from configs.runs.loading import task_of
from policies.agent import Agent
from policies.planner_link import client as client_module
from policies.planner_link import service as service_module
from policies.planner_link.client import PlannerClient, reach
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
    hang_up,
    incompatible,
    receive,
    send,
)
from policies.planner_link.service import MOST, PlannerService, listening
from policies.storage.checkpoint import read_spec
from policies.text_encoder import WORDS, Words
from policies.tokens.curves import Curve
from worldmodel.errors import UserError
from worldmodel.planner import Planner
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import PlannerConfig

BEGIN = Begin("reach", 3, 2, "delta", 30.0, 2, 2, 2, 1)
WAIT_S = 60.0  # a loaded machine
PROMPT_S = 5.0
HANGS_UP = signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP  # it is under nohup
ANSWER = Answer(7, 1.5, 2, np.ones((2, 2), np.float32), np.zeros((1, 4), np.float32))


def until(true):
    """Wait for something true, and return it."""
    end = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


drawn = {str: st.text("abc-1é😀", max_size=99), int: st.integers(0, 2**53 - 1), float: st.floats(0, 1e9)}
drawn |= {bool: st.booleans()}
size, real = st.integers(0, 4), st.floats(-1e6, 1e6, width=32)
matrix = arrays(np.float32, st.tuples(size, size), elements=real)
frames = st.lists(arrays(np.uint8, st.tuples(size, size, size, size)), max_size=12).map(tuple)
shaped = {"state": arrays(np.float32, size, elements=real), "frames": frames, "present": arrays(bool, size)}
shaped |= {"actions": matrix, "tokens": matrix}
any_message = st.one_of(  # a type and its arguments: to make it within a strategy, beartype would draw random numbers
    st.tuples(st.just(kind), *(shaped[f.name] if f.metadata else drawn[f.type] for f in fields(kind)))
    for kind in (Begin, Ready, Refusal, Question, Answer)
)


def plain(message):
    """A message as data that can be compared: arrays by their type, shape and bytes."""
    values = [getattr(message, field.name) for field in fields(message)]
    flat = itertools.chain.from_iterable(value if type(value) is tuple else [value] for value in values)
    return type(message), [(v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in flat]


def over_a_socket(data: bytes, deadline=None):
    """What is received of `data`, after which the other side hangs up, or is silent until the deadline."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        if deadline is None:
            theirs.shutdown(socket.SHUT_WR)
        return receive(ours, deadline)


@given(any_message)
def test_what_is_received_is_what_was_sent(message):
    message = message[0](*message[1:])
    assert plain(over_a_socket(encode(message))) == plain(message)


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
        over_a_socket(HEAD.pack(MAGIC, LARGEST + 1), time.monotonic() + WAIT_S)  # before anything of it is read
    with pytest.raises(TimeoutError, match="timed out"):
        over_a_socket(HEAD.pack(MAGIC, LARGEST) + b"a", soon)
    assert soon <= time.monotonic() < soon + PROMPT_S


def test_messages_that_come_together_are_received_one_by_one():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(encode(long := Question(1, True, np.ones(17_000, np.float32))) + encode(BEGIN))
        assert plain(receive(ours, time.monotonic() + WAIT_S)) == plain(long)
        assert ours.gettimeout() is None  # the deadline was for that one
        assert plain(receive(ours)) == plain(BEGIN)


@given(st.text(max_size=600))
def test_any_error_is_told_in_one_line(reason):
    refusal = Refusal.of(Refused(reason, final=True))
    assert plain(over_a_socket(encode(refusal))) == plain(refusal) == plain(replace(refusal, final=True))
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
    given = {k: v for k, v in (given | {"tokens": ANSWER.tokens} | changes).items() if v is not None}
    tensors = {k: v for k, v in given.items() if isinstance(v, np.ndarray)}
    return save(tensors, {"message": json.dumps({k: v for k, v in given.items() if k not in tensors})})


WRONG = {  # what is said of a body: the body
    "^not a message": body(type="Attack"),
    "^Answer: unknown field 'surprise'": body(surprise=1),
    r"^Answer\.length: int is needed": body(length=None),
    r"^Answer\.length: from 0": body(length=-1),
    r"^Answer\.number: from 0 to 2\^53": body(number=2**53),
    r"^Answer\.number: int is needed": body(number=True),
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


class Watched(Agent):
    """An agent that notes its calls, and takes 20 ms more."""

    def forget(self):
        self.calls = ["forget"]
        super().forget()

    def decide(self, observation, deadline=None):
        self.calls += [observation, deadline and deadline - time.perf_counter()]
        time.sleep(0.02)
        return super().decide(observation, deadline=deadline)


def planning_agent(toys, length: int) -> Agent:
    """An agent with a planner, of states (3,) and actions (2,)."""
    token = toys.token_settings(length)
    curve = Curve.of_token(token, 2)
    model = toys.tiny_model(3, curve.size, token=token)
    planner = Planner(model, 0.9, PlannerConfig(samples=8, policy_samples=4, elites=4))
    return Watched(model, curve, planner, torch.Generator())


@pytest.fixture
def echo(toys):
    """A service whose actions are the state, and the lines that it said."""
    lines = []
    service = PlannerService(planning_agent(toys, 2), BEGIN, lines.append)
    service.answer = lambda q: replace(ANSWER, number=q.number, actions=np.tile(q.state[:2], (2, 1)))
    service.lines = lines
    return service


@pytest.fixture(params=["socket", "port"])
def address(request, echo, tmp_path):
    """Where the service listens."""
    with listening(0 if request.param == "port" else str(tmp_path / "folder" / "planner.sock")) as listener:
        thread = threading.Thread(target=echo.serve, args=(listener,))
        thread.start()
        name = listener.getsockname()
        yield name if isinstance(name, str) else name[1]
        echo.close()
        echo.close()  # as a second Ctrl-C does
        thread.join(WAIT_S)
        assert not thread.is_alive()


at_a_socket = pytest.mark.parametrize("address", ["socket"], indirect=True)


@pytest.fixture
def connect(address, monkeypatch):
    """Makes clients, connected; `said` has their lines."""
    monkeypatch.setattr(client_module, "RETRY_S", 0.01)
    with contextlib.ExitStack() as stack:

        def connect(begin=BEGIN, **keys):
            said = []
            client = stack.enter_context(
                contextlib.closing(PlannerClient(partial(reach, address), begin, said.append, **keys))
            )
            client.said = said
            client.connect()
            return client

        yield connect


def answered(client, state=(0.25, -1, 3)):
    """The answer to a question, asked as often as necessary; None if the planner is gone first."""
    state = np.array(state, np.float32)
    found = until(lambda: (client.ask(state, True), client.gone() or client.poll())[1])
    return None if isinstance(found, str) else found


def test_answers_come_in_order_each_for_its_question(echo, connect):
    echo.agent.calls.clear()
    client = connect()
    assert echo.agent.calls == ["forget"]
    for i in range(5):
        assert not client.waiting
        assert client.ask(np.full(3, i / 8), False) and client.waiting and not client.ask(np.ones(3), False)
        answer = until(client.poll)
        assert (answer.number, answer.actions.tolist()) == (i + 1, [[i / 8] * 2] * 2)
        assert not client.waiting and client.gone() == ""


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD.pack(MAGIC, 2**32 - 1),
        encode(Question(1, True, np.ones(3))),
        encode(replace(BEGIN, task="walk")),
        *(HEAD.pack(MAGIC, len(given)) + given for given in list(WRONG.values())[::4]),
        encode(BEGIN) + encode(BEGIN),
    ],
)
def test_whatever_a_peer_sends_is_refused_in_one_line_and_others_are_served(echo, address, connect, opening):
    with reach(address) as sock:
        with contextlib.suppress(OSError):  # it may be hung up on before it has sent all
            sock.sendall(opening)
            sock.shutdown(socket.SHUT_WR)
        until(lambda: any(line.startswith(("refused: ", "gone: ")) for line in echo.lines))
    assert all("\n" not in line for line in echo.lines)
    assert answered(connect()).actions.tolist() == [[0.25, -1]] * 2


@at_a_socket
def test_many_who_send_nothing_do_not_keep_a_robot_out_for_good(echo, address, connect, monkeypatch):
    monkeypatch.setattr(service_module, "HANDSHAKE_S", 0.3)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(reach(address)) for _ in range(MOST + 4)]
        until(lambda: echo.refused == len(slow))
        assert sum(f"{MOST} others are connected" in line for line in echo.lines) == 4
        assert answered(connect())


def test_the_newest_robot_takes_over_and_the_one_before_does_not_come_back(connect):
    first = connect()
    with pytest.raises(Refused, match="task is reach, the robot's walk"):
        connect(replace(BEGIN, task="walk"))  # which takes nothing over
    assert answered(first) and first.losses == 0
    second = connect()
    assert answered(second)
    assert answered(first) is None
    assert first.gone() == "the planner is gone: another robot took over"
    assert answered(second) and second.losses == 0
    assert answered(connect())  # who comes anew may


@at_a_socket
@pytest.mark.parametrize("reconnect", [True, False])
def test_a_lost_planner_is_found_again_or_gone_at_once(echo, connect, reconnect):
    client = connect(reconnect=reconnect)
    assert answered(client)
    for losses in (1, 2) if reconnect else (1,):
        hang_up(echo._socket)
        assert bool(answered(client)) == reconnect and client.losses == losses
        if reconnect:
            assert len(client.said) == losses and client.said[-1].startswith("the planner is lost: ")
    assert client.gone().startswith("" if reconnect else "the planner is gone: ") and bool(client.gone()) != reconnect


@contextlib.contextmanager
def scripted(*conversations, **keys):
    """A client of a planner that does what is written, one conversation a connection, then says no more."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in conversations]

        def talk(theirs, conversation):
            with contextlib.suppress(OSError):  # it may be hung up on
                conversation(theirs)

        for (ours, theirs), conversation in zip(pairs, conversations, strict=True):
            stack.enter_context(ours)
            stack.enter_context(theirs)
            thread = threading.Thread(target=talk, args=(theirs, conversation), daemon=True)
            stack.callback(thread.join)
            stack.callback(hang_up, theirs)
            thread.start()
        sockets = iter([ours for ours, _ in pairs])
        yield stack.enter_context(contextlib.closing(PlannerClient(lambda: next(sockets), BEGIN, print, **keys)))


def ready(sock):
    """Accept a robot."""
    receive(sock)
    send(sock, Ready())


@pytest.mark.parametrize("behaviour", ["reads nothing", "answers nothing", "answers a part"])
def test_a_planner_that_hangs_delays_nothing_and_is_gone_in_the_end(behaviour):
    frames = (np.zeros((2, 1000, 1000, 3), np.uint8),) * (behaviour == "reads nothing")

    def hang(sock):
        ready(sock)
        if behaviour != "reads nothing":
            receive(sock)
        if behaviour == "answers a part":
            sock.sendall(encode(ANSWER)[:30])

    with scripted(hang, away_s=0.3) as client:
        client.connect()
        longest, gone, end = 0.0, "", time.monotonic() + WAIT_S
        while not gone and time.monotonic() < end:
            before = time.monotonic()
            client.ask(np.ones(3), True, frames)
            assert client.poll() is None
            gone = client.gone()
            longest = max(longest, time.monotonic() - before)
        assert (gone, longest < PROMPT_S) == ("the planner is gone: no answer for 0.3 s", True)
        before = time.monotonic()
        client.close()
        assert time.monotonic() - before < PROMPT_S


def test_a_slow_line_that_ends_within_an_answer_leaves_none_of_it_to_the_next_question(monkeypatch):
    monkeypatch.setattr(client_module, "RETRY_S", 0.01)

    def slow(sock):
        ready(sock)
        receive(sock)
        for byte in encode(replace(ANSWER, number=1))[:-1]:
            sock.sendall(bytes([byte]))
        hang_up(sock)

    def prompt(sock):
        ready(sock)
        send(sock, replace(ANSWER, number=receive(sock).number, plan_ms=9.0))

    with scripted(slow, prompt) as client:
        client.connect()
        assert client.ask(np.ones(3), True)
        until(lambda: client.poll() is None and not client.waiting)
        answer = answered(client)
        assert (answer.number, answer.plan_ms, client.losses) == (2, 9.0, 1)


@pytest.mark.parametrize("stage", ["reaching", "greeting", "pausing"])
def test_a_client_can_be_closed_while_it_connects_again(stage, monkeypatch):
    """Soon, and without another connection left open."""
    monkeypatch.setattr(client_module, "RETRY_S", WAIT_S if stage == "pausing" else 0.0)
    reached, go, over = threading.Event(), threading.Event(), threading.Event()

    def silent(sock):
        while sock.recv(1 << 12):  # its Begin, if it was sent, and then the end
            pass
        over.set()

    with scripted(lambda sock: (ready(sock), hang_up(sock)), silent) as client:
        client.connect()
        open_again = client._reach
        client._reach = lambda: (reached.set(), stage != "reaching" or go.wait(WAIT_S), open_again())[-1]
        client.ask(np.ones(3), True)
        until(lambda: client.poll() is None and client.losses)
        client.ask(np.ones(3), True)
        assert stage == "pausing" or reached.wait(WAIT_S)
        closing = threading.Thread(target=client.close)
        closing.start()
        until(client._closed.is_set)
        go.set()
        closing.join(PROMPT_S)
        assert not closing.is_alive() and reached.is_set() == (stage != "pausing")
        assert not [each for each in threading.enumerate() if each.name.startswith("planner client")]
        assert stage == "pausing" or over.wait(WAIT_S)


TOO_MUCH = [{"actions": np.zeros(shape)} for shape in [(2, 1), (0, 2), (3, 2)]] + [{"length": 0}, {"length": 3}]
TOO_MUCH += [{"tokens": np.zeros(shape)} for shape in [(1, 3), (0, 4), (101, 4)]] + [{"number": 9}, None]
AT_BOUNDS = [{"actions": np.zeros((1, 2))}, {"tokens": np.zeros((100, 4))}, {"length": 1}, {"length": BEGIN.length}]


@at_a_socket
@pytest.mark.parametrize("changes", TOO_MUCH + AT_BOUNDS)
def test_only_a_plan_that_the_arm_can_follow_is_given_to_it(echo, connect, changes):
    """Nor is a planner believed that refuses whatever it is asked, for longer than `away_s`."""
    refusal, why = Refusal("no plan"), "no plan" if changes is None else "its plan cannot be used: "
    echo.answer = lambda asked: refusal if changes is None else replace(ANSWER, **{"number": asked.number} | changes)
    client = connect(away_s=0.2)
    usable = any(changes is each for each in AT_BOUNDS)
    assert (answered(client) is not None) == usable
    assert usable or client.gone().startswith(f"the planner is gone: {why}")


@pytest.mark.parametrize("deadline_ms", [0.0, 5000.0])
def test_a_service_decides_for_the_robot_that_began_from_what_it_sends(toys, deadline_ms):
    """With the frames that are there, its sentence, and until its deadline; of whoever was before, nothing is left."""
    a, b, token = "observation.images.a", "observation.images.b", toys.token_settings(2)
    shapes = {STATE_KEY: (3,), a: (32, 32, 3), b: (32, 48, 3), LANGUAGE_KEY: (Words.size,)}
    model = toys.tiny_model(shapes, 4, token=token)
    planner = Planner(model, 0.9, PlannerConfig(samples=8, policy_samples=4, elites=4))
    agent = Watched(model, Curve.of_token(token, 2), planner, torch.Generator())
    service = PlannerService(agent, BEGIN)
    assert agent.totals.decisions == 0  # those of a beginning do not count
    service.begin(replace(BEGIN, sentence="go on", deadline_ms=deadline_ms))
    assert agent.calls == ["forget"]
    frames = tuple(frame + np.uint8(7) for frame in service.blank().frames)
    question = Question(3, False, np.zeros(3, np.float32), frames, np.array([True, False]))
    answer = service.answer(question)
    _, observation, left = agent.calls
    assert left is None if not deadline_ms else 4.5 < left <= 5
    assert answer.number == 3 and 20 <= answer.plan_ms < 1000 * WAIT_S
    assert torch.equal(observation.values[LANGUAGE_KEY], WORDS.encode(["go on"]))
    assert (observation.values[a] == 7).all() and observation.present[a].item() and not observation.present[b].item()
    service.answer(replace(question, fresh=True))
    assert agent.calls[0] == "forget" and len(agent.calls) == 3
    for wrong in ({"frames": frames[:1]}, {"present": np.ones(1, bool)}, {"state": np.zeros(4, np.float32)}):
        assert isinstance(service.answer(replace(question, **wrong)), Refusal)


def test_what_leaves_no_plan_is_refused_in_a_line(toys):
    agent = planning_agent(toys, 4)
    service = PlannerService(agent, BEGIN)
    answer = service.answer(Question(2, True, np.zeros(3, np.float32)))
    assert answer.actions.shape == (4, 2) and (answer.number, answer.length) == (2, 4)
    not_finite = service.answer(Question(1, True, np.full(3, np.nan, np.float32)))
    assert not_finite.reason == "observation.state[0] is nan: finite numbers only"
    with torch.no_grad():
        agent.model.outcome.bias.fill_(torch.nan)  # a model that has diverged
    no_plan = service.answer(Question(3, False, np.zeros(3, np.float32)))
    assert "finite" in no_plan.reason
    for refusal in (not_finite, no_plan):
        assert not refusal.final and plain(decode(encode(refusal)[HEAD.size :])) == plain(refusal)


def test_only_its_owner_reaches_a_socket_and_only_one_planner_has_it(tmp_path):
    path = tmp_path / "in" / "folder" / "planner.sock"
    for _ in range(2):
        with listening(str(path)):
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)]
            assert modes == [0o700, 0o600]
            with pytest.raises(UserError, match="another planner listens there"), listening(str(path)):
                pass
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))  # what a planner that was killed leaves
    path.parent.chmod(0o750)
    with pytest.raises(UserError, match=f"chmod 700 {path.parent}"), listening(str(path)):
        pass
    path.unlink()
    path.parent.chmod(0o700)
    path.write_text("precious")
    with pytest.raises(OSError), listening(str(path)):
        pass
    assert path.read_text() == "precious"


@at_a_socket
def test_a_service_that_is_closed_while_it_plans_ends_after_the_plan(echo, connect):
    started, go = threading.Event(), threading.Event()
    echo.answer = lambda question: (started.set(), go.wait(WAIT_S), Refusal("late"))[-1]
    serving = next(thread for thread in threading.enumerate() if getattr(thread, "_target", None) == echo.serve)
    connect().ask(np.ones(3), True)
    assert started.wait(WAIT_S)
    echo.close()
    assert serving.is_alive()
    go.set()
    serving.join(PROMPT_S)
    assert not serving.is_alive()
    assert not [each for each in threading.enumerate() if getattr(each, "_target", None) == echo.converse]


def test_a_planners_process_that_cannot_start_says_why_to_its_robot(monkeypatch, tmp_path):
    ours, theirs = socket.socketpair()
    words = [str(theirs.detach()), str(tmp_path / "gone"), "0", "cpu", "1", "True", "{}", ""]
    monkeypatch.setattr("sys.argv", ["planning", *words])
    process = threading.Thread(target=planning.main)
    process.start()
    client = PlannerClient(lambda: ours, BEGIN, print, patience_s=None, reconnect=False)
    with contextlib.closing(client), pytest.raises(Refused, match=r"^[^\n]*gone: no such folder$"):
        client.connect()
    process.join(WAIT_S)


def test_the_command_plans_for_a_robot_and_ends_with_what_it_did(command, arm_checkpoint, tmp_path):
    path, answers = str(tmp_path / "own" / "s"), []
    begin = planning.begin_of(spec := read_spec(arm_checkpoint), task_of(spec), 2)

    def robots():
        try:
            until(lambda: os.path.exists(path))
            for task in ("another", begin.task):
                client = PlannerClient(partial(reach, path), replace(begin, task=task), print, patience_s=WAIT_S)
                with contextlib.closing(client), contextlib.suppress(Refused):
                    client.connect()
                    answers.append(answered(client, np.zeros(37)))
        finally:
            os.kill(os.getpid(), HANGS_UP)

    thread = threading.Thread(target=robots)
    thread.start()
    code, out, err = command("serve", f"checkpoint={arm_checkpoint}", f"address={path}")
    thread.join(WAIT_S)
    assert code == 0 and f"planning for so101-touch at {path}\n" in err
    assert f"task is {begin.task}, the robot's another" in err
    assert len(answers) == 1 and answers[0].actions.shape == (begin.every, 6) and np.abs(answers[0].actions).max() <= 1
    assert json.loads(out.splitlines()[-1]) == {"decisions": 1, "refused": 1}
    assert not os.path.exists(path)
