"""Laws of the link to a planner: attacks, a planner or a robot that hangs, dies or is replaced."""

import contextlib
import socket
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from policies.agent import Agent
from policies.planner_link import client as client_module
from policies.planner_link import service as service_module
from policies.planner_link.client import PlannerClient, reach
from policies.planner_link.messages import (
    HEAD,
    MAGIC,
    Answer,
    Begin,
    Question,
    Ready,
    Refusal,
    Refused,
    encode,
    hang_up,
    receive,
    send,
)
from policies.planner_link.service import MOST, PlannerService, listening
from policies.tokens.curves import Curve

BEGIN = Begin("reach", 3, 2, "delta", 30.0, 2, 2, 2, 1)
WAIT_S = 60.0  # a loaded machine
PROMPT_S = 5.0
ANSWER = Answer(7, 1.5, 2, np.ones((2, 2), np.float32), np.zeros((1, 4), np.float32))


def until(true):
    """Wait for something true, and return it."""
    end = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


@pytest.fixture
def echo(toys):
    """A service whose actions are the state, and the `lines` that it said."""
    token = toys.token_settings(2)
    curve = Curve.of_token(token, 2)
    agent = Agent(toys.tiny_model(3, curve.size, token=token), curve, None, torch.Generator())
    service = PlannerService(agent, BEGIN, (lines := []).append)
    service.answer = lambda q: replace(ANSWER, number=q.number, actions=np.tile(q.state[:2], (2, 1)))
    service.lines = lines
    return service


@pytest.fixture
def address(echo, tmp_path):
    """Where the service listens."""
    with listening(str(tmp_path / "folder" / "planner.sock")) as listener:
        thread = threading.Thread(target=echo.serve, args=(listener,))
        thread.start()
        yield listener.getsockname()
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


def test_answers_come_in_order_each_for_its_question(connect):
    client = connect()
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
        HEAD.pack(MAGIC, 6) + b"attack",
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


TOO_MUCH = [{"actions": np.zeros((3, 2))}, {"actions": np.zeros((0, 2))}, {"actions": np.zeros((2, 1))}, {"length": 3}]
TOO_MUCH += [{"tokens": np.zeros((1, 3))}, {"tokens": np.zeros((101, 4))}, {"number": 9}, None]
AT_BOUNDS = [{"actions": np.zeros((1, 2))}, {"tokens": np.zeros((100, 4))}, {"length": 1}]


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
