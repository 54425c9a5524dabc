"""semagram-play: a plan ends where it says, its events come in their order, and the arm rests at a question."""

import json

import numpy as np
import pytest

from configs.arm import playing
from configs.reporting import FAILED, Ended
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop, plan_bytes, to_plain
from robot.arms import gated
from robot.config_so101 import SO101SimConfig
from robot.drivers import WrittenDriver
from robot.loop import SHARE, SLOW_RAD_S, Loop, Reading
from robot.safety.limits import ARM, RANGES
from robot.settings import PlayConfig
from robot.so101 import SO101Sim
from robot.ticks import SimulatedTime, Ticks

GOAL = np.array([0.2, -0.4, 0.3, 0.2, -0.1, 0.0])
THERE = Move(np.array([GOAL * 0, GOAL * 0, GOAL, GOAL]), 1.5)
ON = Move(np.array([GOAL, GOAL, -GOAL, -GOAL]), 1.5)


@pytest.fixture
def sent(monkeypatch):
    """Every command that the simulated arm got, (n, 6) in its own units."""
    got, real = [], SO101Sim.send_action

    def kept(arm, action):
        got.append([action[f"{name}.pos"] for name in RANGES])
        return real(arm, action)

    monkeypatch.setattr(SO101Sim, "send_action", kept)
    return got


@pytest.fixture
def play(tmp_path):
    """Plays tokens, or what the text of a plan holds."""

    def run(*tokens, **keys) -> dict:
        path = tmp_path / "plan.json"
        path.write_text(tokens[0] if isinstance(tokens[0], str) else json.dumps(to_plain(tokens)))
        return playing.play(PlayConfig(plan=str(path), **keys), tmp_path)

    return run


def scaled(values) -> np.ndarray:
    return ARM.shares(ARM.to_rad(np.array(values)))


@pytest.mark.parametrize("hz", [30, 50])
def test_a_plan_ends_where_it_says_with_every_event_at_its_time(play, sent, hz):
    result = play(Look("cup"), THERE, Grip(1.0), Grip(0.25, after=0.5), ON, Stop(), control_hz=hz)
    assert result["events"] == ["0.00 s look(cup)", "1.50 s grip(open)", "2.00 s grip(0.25, +0.5 s)", "3.30 s stop"]
    assert result["finished"]
    assert (result["seconds"], result["ticks"]) == (pytest.approx(3.3, abs=1 / hz), len(sent[: round(3.3 * hz)]))
    ended = scaled(sent[round(3.3 * hz) - 1])
    np.testing.assert_allclose(ended[:5], -GOAL[:5], atol=0.01)
    assert ended[5] == pytest.approx(2 * 0.25 - 1, abs=0.01)  # the grip has the last word on the gripper
    assert 0 < result["farthest_deg"] < 25
    json.dumps(result)


@pytest.mark.parametrize(("answer", "goes_on"), [("  ", True), ("no", False), (EOFError, False), (None, False)])
def test_at_a_question_the_arm_rests_and_only_an_empty_line_goes_on(play, sent, monkeypatch, answer, goes_on):
    """Without anybody to answer, the question ends it."""
    waited = []

    def asked():
        waited.append(len(sent))
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", asked)
    if answer is None:
        monkeypatch.setattr("sys.stdin", None)
    result = play(THERE, Ask("this one?"), ON, Look("cup"))
    assert result["finished"] is goes_on
    assert result["events"] == ["1.80 s ask(this one?)", "3.30 s look(cup)"][: 1 + goes_on]
    (count,) = waited or [len(sent)]
    np.testing.assert_allclose(sent[count - 1], sent[count - 2], atol=0.3)
    np.testing.assert_allclose(scaled(sent[count - 1])[:5], GOAL[:5], atol=0.05)
    next_ones = sent[count : count + 2] or [sent[count - 1]]
    assert np.abs(np.diff([sent[count - 1], *next_ones], axis=0)).max() < 1  # degree: no jump after the pause


def test_a_fault_is_one_line_and_the_arm_is_let_go(play, monkeypatch):
    def fails(arm):
        raise ConnectionError("no reply")

    monkeypatch.setattr(SO101Sim, "get_observation", fails)
    with pytest.raises(Ended, match="no reply") as ended:
        play(THERE)
    assert ended.value.code == FAILED


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[", "not JSON"),
        (json.dumps(to_plain([Move(np.zeros((2, 6)), 60.0, 1)] * 61)), "3660 s of motion; at most 3600"),
        (plan_bytes([THERE], "walker-walk", False).decode(), "a plan for 'walker-walk', whose actions are not places"),
        (json.dumps(to_plain([Move(np.zeros((1, 3)), 1.0, 0)])), "3 columns; the SO-101 has 6 joints, shoulder_pan"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(play, tmp_path, text, line):
    with pytest.raises(ValueError, match=line) as error:
        play(text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"plan={tmp_path / 'plan.json'}: ")


def test_the_last_place_is_commanded_even_where_its_tick_was_missed():
    """A tick is never left out if it is the last (test_running.py)."""
    events = []
    items = [(0.1, np.zeros(6)), (0.15, Look("cup")), (0.2, np.full(6, 0.1)), (0.3, np.full(6, 0.2)), (0.3, Stop())]
    driver = WrittenDriver(items, np.copy, lambda at, event: events.append(at))
    here = np.zeros(6)
    driver.goal(Reading({}, here, here, 0.0, 1), here)
    assert events == []
    last = driver.goal(Reading({}, here, here, 0.0, 7), here)
    np.testing.assert_array_equal(last, np.full(6, 0.2))
    assert events == [0.15, 0.3]
    driver.sent(np.full(6, 0.1))
    assert (driver.farthest, driver.left) == pytest.approx((np.degrees(0.2), np.degrees(0.1)))


@pytest.mark.parametrize("limits", ["careful", "normal"])
def test_an_arm_is_moved_slowly_to_a_place_however_narrow_its_limits(limits):
    """As to where it was found, before it is let go."""
    arm = SO101Sim(SO101SimConfig())
    clock = SimulatedTime(arm)
    loop = Loop(gated(arm, limits, stop_on_fault=True, clock=clock), ARM, Ticks(30.0, clock))
    targets, send = [], loop.send
    loop.send = lambda target, reading: targets.append(target) or send(target, reading)
    with loop.robot:
        away = loop.read().joints + np.array([0.5, 0.5, -0.5, 0.5, 1.0, 0.0])
        assert loop.move_to(away) == ""
        assert np.abs(loop.read().joints - away).max() < 0.1
    rates = np.abs(np.diff(targets, axis=0)).max(0) * 30
    fastest = np.minimum(SLOW_RAD_S, SHARE * ARM.spans(loop.robot.gate.limits.column("rate")))
    assert (rates <= 1.02 * fastest).all() and rates[4] > 0.9 * fastest[4]
