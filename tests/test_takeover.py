"""Taking over from a policy: at once, without a jump, through the gate; marked step by step; given back as smoothly."""

import json

import numpy as np
import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from configs.arm.recording import RecordSession
from robot.drivers import TeleopDriver
from robot.loop import Driver, Loop, Reading
from robot.recording import INTERVENTION, SUCCESS
from robot.safety.limits import ARM
from robot.settings import RecordConfig
from robot.takeover import FADE_RAD_S, Keys, Person, Takeover
from robot.ticks import Ticks

HZ, FADE = 30, float(FADE_RAD_S) / 30
JUMP = np.radians(2.0)
MOVED = np.radians(0.5)


class Scripted(Driver):
    """Goals from `at(step)`; `log`: what it was told."""

    def __init__(self, at):
        self.at, self.log, self.step = at, [], 0

    def begin(self, seed=0):
        self.log.append("begin")

    def goal(self, reading, last):
        self.log.append("goal")
        self.step += 1
        return np.full(6, self.at(self.step))

    def follow(self, reading, last):
        self.log.append("follow")

    def sent(self, target):
        self.log.append("sent")


def reading(steps=1):
    return Reading({}, np.zeros(6), np.zeros(6), 0.0, steps)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.booleans(), st.integers(1, 3)), max_size=60))
def test_no_command_moves_by_more_than_its_driver_does_and_the_fade(moves):
    """Whatever either wants: where the driver changes, nothing moves; and the difference is gone in the end."""
    mine, theirs, keys = Scripted(lambda _: places[0]), Scripted(lambda _: places[1]), Keys()
    driver, places = Takeover(mine, Person(theirs, keys, HZ, 9e9), HZ, keys), [0.0, 1.0]
    driver.begin()
    last, own = driver.goal(reading(), np.zeros(6)), 0.0
    for *places, swap, steps in moves:
        before = driver.intervention
        keys.press("space" if swap else "x")
        goal, now = driver.goal(reading(steps), last), places[driver.intervention]
        assert driver.intervention == before ^ swap
        assert np.abs(goal - last).max() <= (0 if swap else abs(now - own) + FADE * steps) + 1e-9
        last, own = goal, now
    for _ in range(600):
        last = driver.goal(reading(), last)
    np.testing.assert_allclose(last, own)


def test_the_policy_follows_while_another_drives_and_then_begins_anew():
    policy, keys = Scripted(lambda step: 0.0), Keys()
    driver = Takeover(policy, Person(Scripted(lambda step: 0.0), keys, HZ, MOVED), HZ, keys)
    driver.begin()
    for number in range(6):
        keys.press("space" if number in (2, 4) else "x")
        driver.sent(driver.goal(reading(), np.zeros(6)))
    assert policy.log == ["begin", *["goal", "sent"] * 2, *["follow"] * 2, "begin", *["goal", "sent"] * 2]


@pytest.mark.parametrize(("key", "done"), [("s", True), ("q", False)])
def test_a_key_ends_the_episode_one_step_later_which_is_marked(key, done, arms, monkeypatch, tmp_path):
    arm, keys, kept = arms.WiredArm(tmp_path, monkeypatch.setattr), Keys(), []
    driver = Takeover(Scripted(lambda step: 0.0), Person(Scripted(lambda step: 0.0), keys, HZ, MOVED), HZ, keys)
    driver.begin()
    sinks = [lambda step: kept.append(step.success), lambda step: keys.press(key) if len(kept) == 5 else None]
    with arm.robot:
        assert Loop(arm.robot, ARM, Ticks(HZ, arm.clock), sinks).episode(driver, 99, lambda: keys.said == "s") is done
    assert kept == [False] * 5 + [done]


class Arms:
    """An arm on one wire, LeRobot's own leader on another, and a policy that turns the arm's base."""

    def __init__(self, arms, folder, monkeypatch, give_back_s=0.0):
        from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig

        self.arm, self.leader, self.keys, self.steps = (
            arms.WiredArm(folder, monkeypatch.setattr),
            arms.Chain(),
            Keys(),
            [],
        )
        chains = {"wire": self.arm.chain, "leader": self.leader}
        monkeypatch.setattr(serial, "Serial", lambda port, **_: arms.Wire(chains[port]))
        (folder / "leader.json").write_text((folder / "arm.json").read_text())
        leader = SO101Leader(SO101LeaderConfig(port="leader", id="leader", calibration_dir=folder))
        names = [f"{name}.pos" for name in self.arm.robot.gate.limits.names]
        person = Person(TeleopDriver(leader, names, ARM), self.keys, HZ, MOVED, give_back_s)
        self.policy = Driver()
        self.policy.goal = lambda reading, last: last + np.array([np.radians(20) / HZ, 0, 0, 0, 0, 0])
        self.driver = Takeover(self.policy, person, HZ, self.keys)

    def run(self, seconds, *hands):
        """Each of the `hands` gets every step's number, and moves the leader; returns what was kept of each step."""
        kept = []

        def keep(step):
            reading = np.array(list(step.reading.values))
            kept.append(
                (step.reading.at, self.driver.intervention, step.sent, self.arm.robot.values(step.action), reading)
            )
            for hand in hands:
                hand(step.number)

        self.driver.begin()
        with self.arm.robot:
            Loop(self.arm.robot, ARM, Ticks(HZ, self.arm.clock), [keep]).episode(self.driver, round(seconds * HZ))
        return [np.array(column) for column in zip(*kept, strict=True)]


def test_a_touch_of_the_leader_takes_over_within_50_ms_without_a_jump(arms, monkeypatch, tmp_path):
    rig, at = Arms(arms, tmp_path, monkeypatch), []
    for number in (1, 5):
        rig.leader.move(number, 40)  # far from where the arm is

    def touch(number):
        if number >= 40:
            at.append(rig.arm.clock.now)
            rig.leader.move(1, max(-60, 79 - number))  # a degree a step

    when, theirs, sent, action, measured = rig.run(6, touch)
    assert not theirs[:41].any() and theirs[41:].all()  # the next step after the touch
    assert when[41] - at[0] < 0.05
    assert np.abs(np.diff(sent, axis=0)).max() <= JUMP
    assert (np.abs(action - measured) <= rig.arm.robot.gate.limits.column("step") + 0.1).all()
    assert np.degrees(np.abs(sent[-1] - np.radians([-60, 0, 0, 0, 40, 0])))[:5].max() < 1.5  # the leader's own pose


def test_an_encoders_noise_is_no_touch_and_a_leader_held_still_gives_back(arms, monkeypatch, tmp_path):
    rig = Arms(arms, tmp_path, monkeypatch, give_back_s=1.0)

    def hand(number):
        rig.leader.move(2, 0.09 * (number % 3) + (number - 60) * (60 <= number < 90))

    _, theirs, sent, *_ = rig.run(5, hand)
    assert not theirs[:60].any() and theirs[62:90].all() and not theirs[127:].any()
    assert np.abs(np.diff(sent, axis=0)).max() <= JUMP
    assert sent[-1][0] > sent[-20][0]  # the policy goes on


def test_a_hand_that_gave_back_by_a_key_takes_over_again_only_once_it_was_still(arms, monkeypatch, tmp_path):
    rig = Arms(arms, tmp_path, monkeypatch)

    def hand(number):
        rig.leader.move(2, max(0, min(number, 50) - 10) + max(0, number - 80))
        rig.keys.press("space" if number == 20 else "x")

    _, theirs, sent, *_ = rig.run(4, hand)
    assert list(np.flatnonzero(np.diff(theirs.astype(int)))) == [11, 20, 81]
    assert np.abs(np.diff(sent, axis=0)).max() <= JUMP


@pytest.mark.slow
def test_a_script_rescues_a_policy_and_lerobot_reads_who_drove(arm_checkpoint, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    keys = {
        "driver": "policy",
        "checkpoint": str(arm_checkpoint),
        "takeover": "script",
        "takeover_s": 1.0,
        "seconds": 4.0,
    }
    result = RecordSession(RecordConfig(dataset=str(tmp_path / "d"), episodes=2, seed=3, **keys)).run()
    read = LeRobotDataset("local/d", root=tmp_path / "d")
    rows = read.hf_dataset.with_format("numpy")
    theirs, episode = np.array(rows[INTERVENTION]), np.array(rows["episode_index"])
    table = parquet.read_table(next((tmp_path / "d" / "meta" / "episodes").glob("*/*.parquet"))).to_pydict()
    for number in range(2):
        mine = theirs[episode == number]
        assert not mine[:29].any() and mine[-1] and not (np.diff(mine.astype(int)) < 0).any()
        assert table["intervention_rate"][number] == pytest.approx(mine.mean())
        at = int(np.argmax(mine))
        jumps = np.abs(np.diff(np.stack(rows["action"])[episode == number][at - 1 : at + 1, :5], axis=0))
        assert np.array(rows[SUCCESS])[episode == number].any() and jumps.max() <= 2.0
    assert result["success_rate"] == 1 and json.dumps(result)
