"""semagram-play: a sentence ends where it says, tells its events in their order, and rests at a question."""

import json

import numpy as np
import pytest

from configs.command import FAILED, Ended
from configs.playing import HIGH, LOW, Playing
from policies.notation import to_plain
from policies.vocabulary import Ask, Grip, Look, Move, Stop
from robot.limits import RANGES
from robot.running.settings import PlayConfig
from robot.so101_sim import SO101Sim

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


def play(tmp_path, *tokens, **keys) -> dict:
    path = tmp_path / "sentence.json"
    path.write_text(json.dumps(to_plain(tokens)))
    return Playing.begin(PlayConfig(str(path), **keys)).run()


def scaled(values) -> np.ndarray:
    return 2 * (np.array(values) - LOW) / (HIGH - LOW) - 1


@pytest.mark.parametrize("hz", [30, 50])
def test_a_sentence_ends_where_it_says_with_every_event_at_its_time(tmp_path, sent, hz):
    result = play(tmp_path, Look("cup"), THERE, Grip(1.0), Grip(0.25, after=0.5), ON, Stop(), control_hz=hz)
    assert result["events"] == ["0.00 s look(cup)", "1.50 s grip(open)", "2.00 s grip(0.25, +0.5 s)", "3.30 s stop"]
    assert result["finished"]
    assert (result["seconds"], result["ticks"]) == (pytest.approx(3.3, abs=1 / hz), len(sent[: round(3.3 * hz)]))
    ended = scaled(sent[round(3.3 * hz) - 1])
    np.testing.assert_allclose(ended[:5], -GOAL[:5], atol=0.01)
    assert ended[5] == pytest.approx(2 * 0.25 - 1, abs=0.01)  # the grip has the last word on the gripper
    assert 0 < result["farthest_deg"] < 25
    json.dumps(result)


@pytest.mark.parametrize("answer", ["", EOFError])
def test_at_a_question_the_arm_rests_until_it_is_answered(tmp_path, sent, monkeypatch, answer):
    waited = []

    def asked():
        waited.append(len(sent))
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", asked)
    result = play(tmp_path, THERE, Ask("this one?"), ON, Look("cup"))
    (count,) = waited
    np.testing.assert_allclose(sent[count - 1], sent[count - 2], atol=0.3)
    assert result["finished"] == (answer == "")
    assert result["events"] == ["1.80 s ask(this one?)", "3.30 s look(cup)"][: 1 + result["finished"]]
    rest = scaled(sent[count - 1])[:5]
    np.testing.assert_allclose(rest, GOAL[:5], atol=0.05)
    goes_on = sent[count : count + 2] or [sent[count - 1]]
    assert np.abs(np.diff([sent[count - 1], *goes_on], axis=0)).max() < 1  # degree: no jump after the pause


def test_a_fault_is_one_line_and_the_arm_is_let_go(tmp_path, monkeypatch):
    def fails(arm):
        raise ConnectionError("no reply")

    monkeypatch.setattr(SO101Sim, "get_observation", fails)
    with pytest.raises(Ended, match="no reply") as ended:
        play(tmp_path, THERE)
    assert ended.value.code == FAILED


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[", "not JSON"),
        ('[{"kind": "jump"}]', "token 1 of 1: kind='jump': one of move, grip"),
        (
            json.dumps(to_plain([Move(np.array([[0.0, 0.1, 0.2]]), 1.0, 0)])),
            "3 columns; the SO-101 has 6 joints, shoulder_pan",
        ),
    ],
)
def test_a_sentence_that_cannot_be_is_one_line(tmp_path, text, line):
    path = tmp_path / "sentence.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=line) as error:
        Playing.begin(PlayConfig(str(path)))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"sentence={path}: ")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, "^sentence=: a JSON file"),
        ({"sentence": "s", "limits": "brave"}, "^limits=brave: one of careful"),
        ({"sentence": "s", "control_hz": 0}, "^control_hz=0: "),
        ({"sentence": "s", "robot": "so101"}, "^port= and id=: "),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, line):
    with pytest.raises(ValueError, match=line):
        PlayConfig(**keys)
