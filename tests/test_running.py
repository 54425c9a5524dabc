"""Motions that end at rest, plans that come late, rungs that an arm takes, episodes that begin where they should."""

import errno
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.arm.live import NoView
from configs.arm.running import RunSession
from policies.ladder import BACK_OFF, STOP
from policies.tools import Asker
from policies.training.rollouts import evaluation_seeds
from robot.drivers import PlanFollower, Plans, TokenTrack
from robot.loop import Loop, Reading
from robot.rungs import HELD_RAD, HELD_S
from robot.safety.stops import FaultKind
from robot.settings import RunConfig
from robot.ticks import Ticks
from sim.so101.joints import Targets, Units

HZ = 30.0
LOW, HIGH = np.full(6, -2.0), np.full(6, 2.0)
REST = np.zeros(6)


def targets(control="delta") -> Targets:
    return Targets.at(HZ, LOW, HIGH, control)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=6, max_size=6), min_size=1, max_size=6), st.booleans())
def test_past_a_curve_the_arm_comes_to_rest_evenly_within_its_range_and_stays(actions, absolute):
    track = TokenTrack(targets("absolute" if absolute else "delta"), HZ)
    track.begin(np.array(actions))
    path = [REST]
    for _ in range(len(actions) + 20):
        path.append(track.next(path[-1]))
    path = np.array(path)
    assert (path >= LOW).all() and (path <= HIGH).all()
    rates = np.diff(path, axis=0)
    assert (np.diff(np.abs(rates[len(actions) - 1 :]), axis=0) <= 1e-12).all()
    assert not rates[len(actions) + 7 :].any() and track.still
    moved = np.abs(np.clip(rates[len(actions) - 1], -track._targets.step, track._targets.step)) > 1e-3
    inside = (np.abs(path[-1]) < 2).all()
    assert not inside or (np.abs(rates[len(actions)][moved]) > 0).all()  # it does not stop dead


class Estimator:
    """Whose state is the targets that lie ahead."""

    targets = targets()

    def __init__(self):
        self.followed = []

    def follow(self, reading, sent, bodies=None, steps=1):
        self.followed.append(steps)

    def state(self, ahead):
        return np.array(ahead)


def advance(follower, last, steps=1):
    """One control step: the target that is sent."""
    here = Reading({}, last, last, 0.0, steps)
    target = follower.goal(here, last)
    assert follower.watch(here) is None
    follower.sent(target)
    return target


def pursue(planner, steps, lead=2) -> tuple[list[float], Plans]:
    """The actions taken, one a step, and how planning went."""
    follower, last, taken = PlanFollower(Estimator(), planner, HZ, lead), REST, []
    for planner.now in range(steps):
        target = advance(follower, last)
        taken.append(round(float((target - last)[0] / targets().step[0]), 6))
        last = target
    return taken, follower.plans


@pytest.mark.parametrize(("length", "lead"), [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_plans_in_time_make_one_unbroken_motion_and_begin_where_the_last_one_leads(arms, length, lead):
    planner = arms.FakePlanner(length=length)
    taken, plans = pursue(planner, 41, lead)
    assert taken == [0.0] + [n / 100 for n in range(1, 40 // length + 1) for _ in range(length)]
    assert (plans.late, plans.count) == (0, len(plans.round_ms)) and plans.count >= 40 // length
    assert [fresh for *_, fresh in planner.asked] == [True] + [False] * (len(planner.asked) - 1)
    path = np.cumsum(np.outer(taken, targets().step), 0)
    for now, ahead, _ in planner.asked[1:-1]:
        assert len(ahead) == min(lead, length - 1) + 1
        np.testing.assert_allclose(ahead, path[now : now + len(ahead)], atol=1e-6)


def test_a_late_plan_is_the_tail_of_the_last_curve_then_goes_on(arms):
    taken, plans = pursue(arms.FakePlanner(1, 5, 1), 14)
    assert taken[:5] == [0.0, 0.01, 0.01, 0.01, 0.01]
    assert 0.01 > taken[5] > taken[6] > 0
    assert taken[7:11] == [0.02] * 4
    assert plans.late == 1


@pytest.mark.parametrize(("at", "steps", "kept"), [(3, 9, True), (6, 1, True), (6, 2, True), (6, 3, False)])
def test_steps_that_are_left_out_make_a_plan_late_but_not_those_of_a_curve_that_goes_on(arms, at, steps, kept):
    planner = arms.FakePlanner(1, 6, 1, 1)  # the second is three steps late, and four long
    follower, last, followed = PlanFollower(Estimator(), planner, HZ, 2), REST, set()
    for planner.now in range(20):
        last = advance(follower, last, steps if planner.now == at else 1)
        followed.add(follower.answer and follower.answer.number)
    assert (2 in followed) is kept


def test_a_plan_too_late_or_lost_is_asked_for_again_from_rest(arms):
    planner = arms.FakePlanner(1, 15, None, 1)
    taken, plans = pursue(planner, 80)
    assert [fresh for *_, fresh in planner.asked[:5]] == [True, False, True, True, False]  # from rest: anew
    assert plans.late == 1
    resting, again = taken.index(0.0, 1), taken.index(0.04)
    assert set(taken[resting:again]) == {0.0} and 0.02 not in taken
    assert taken[again : again + 4] == [0.04] * 4


@pytest.fixture
def wired(arms, tmp_path, monkeypatch):
    """LeRobot's arm at the end of a wire, a loop that drives it, in a time that passes when it is waited for.

    `at[n]()` happens at the nth step of an episode; `said`: what people are told.
    """
    arm, at, said, steps = arms.WiredArm(tmp_path, monkeypatch.setattr), {}, [], []
    planner = arms.FakePlanner(otherwise=0, action=lambda number, since: 0.2)
    driver = PlanFollower(Estimator(), planner, HZ, 2, say=said.append)

    def sink(step):
        steps.append(step)
        planner.now += 1
        at.get(planner.now, int)()

    loop = Loop(arm.robot, Units(LOW, HIGH), Ticks(HZ, arm.clock), [sink], said.append)
    with arm.robot:
        yield SimpleNamespace(arm=arm, loop=loop, at=at, said=said, driver=driver, planner=planner, steps=steps)


@pytest.mark.parametrize(
    ("kind", "happens"),
    [
        (FaultKind.STALLED, lambda arm: setattr(arm.chain, "held", 3)),
        (FaultKind.PUSHED, lambda arm: arm.chain.tear(3, -40)),
        (FaultKind.LATE, lambda arm: arm.clock.sleep(0.5)),
        (FaultKind.STUCK, lambda arm: None),
    ],
)
def test_what_somebody_has_to_look_at_first_does_not_go_on_by_itself(wired, kind, happens):
    if kind is FaultKind.STUCK:
        wired.planner.told = lambda number: {
            "rung": STOP * (number > 5),
            "why": "nobody answered",
            "choices": "",
            "gauges": (),
        }
    wired.at[20] = lambda: happens(wired.arm)
    assert wired.loop.episode(wired.driver, 300, lambda: False) is False
    assert wired.arm.robot.fault.kind is kind and wired.arm.robot.command.resting
    assert wired.said[-1] == f"stopped: {wired.arm.robot.fault}" and wired.loop.faults == [str(wired.arm.robot.fault)]
    assert wired.loop.recover(wired.driver) is (kind is FaultKind.LATE)
    assert (wired.arm.robot.fault is None) is (kind is FaultKind.LATE)


def test_told_to_back_off_an_arm_goes_the_way_it_came_then_asks_anew_from_rest(wired):
    wired.driver.begin()
    wired.planner.action = lambda number, since: np.eye(6)[0] * 0.15
    wired.planner.told = lambda number: {
        "rung": BACK_OFF * (number == 20),
        "why": "pressed" * (number == 20),
        "gauges": (),
    }
    wired.loop.episode(wired.driver, 120)
    sent, fresh = np.array([step.sent[0] for step in wired.steps]), [fresh for *_, fresh in wired.planner.asked]
    back = int(np.flatnonzero(np.diff(sent) < -1e-4)[0])
    assert wired.said == ["episode 1: pressed"] and fresh == [True] + 19 * [False] + [True] + (len(fresh) - 21) * [
        False
    ]
    assert sent[back - 10] <= sent[back : back + 15].min() < sent[back] - 0.04 < sent[-1]  # as far as limits let it


def test_a_held_joint_is_told_and_backed_off_from_twice_within_half_a_second_and_then_the_arm_stops(wired):
    wired.driver._backs_off, wired.planner.action = True, lambda number, since: np.eye(6)[0] * 0.15
    wired.driver.begin()
    wired.at[60] = lambda: setattr(wired.arm.chain, "held", 1)
    assert wired.loop.episode(wired.driver, 300, lambda: False) is False
    why = "shoulder_pan does not go where it is sent; is it held, or against something?"
    assert [rung["why"] for rung in wired.driver.rungs] == [
        f"{rung}: {why}" for rung in ("back off", "back off", "stop")
    ]
    assert wired.loop.faults == [f"stuck: stop: {why}"] and wired.arm.robot.command.resting
    gap = np.array([abs(step.sent - step.reading.joints)[0] for step in wired.steps])
    first = wired.driver.rungs[0]["frame"]
    pressed = int(np.flatnonzero(gap > HELD_RAD)[0])
    assert HELD_S * HZ <= first - pressed <= HZ / 2 and gap[first + 10] < gap[first] / 2
    assert all(left > -1e-9 for step in wired.steps for _, left in step.margins.least().values())


def test_a_joint_that_moves_or_a_gripper_that_holds_something_is_not_held(wired):
    wired.driver._backs_off = True
    wired.driver.begin()
    wired.at[30] = lambda: setattr(wired.arm.chain, "held", 6)
    wired.loop.episode(wired.driver, 90)
    assert not wired.driver.rungs


@pytest.mark.parametrize("answers", [True, False])
def test_a_question_rests_the_arm_until_it_is_answered_and_without_an_answer_it_stops(wired, answers):
    asker, replies, asked = Asker(4.0, wired.said.append, wired.arm.clock.monotonic), [], wired.planner.ask
    wired.driver._asker, wired.driver.waits = asker, 5 * HZ
    wired.driver.begin()

    def ask(*given):
        reply = given[-1]
        if wired.driver._rung.asking:
            replies.append(reply)
        elif reply:
            raise AssertionError("nothing was asked")
        return asked(*given)

    def told(number):
        nobody = STOP * (replies == [""])
        choices = '["stand", "hang", "stop"]' * (number == 6)
        return {
            "rung": "ask" if choices else nobody,
            "why": "which?" * bool(choices or nobody),
            "choices": choices,
            "gauges": (),
        }

    wired.planner.ask, wired.planner.told = ask, told
    wired.at[90] = lambda: answers and (asker.answer(4), asker.answer(2))
    done = wired.loop.episode(wired.driver, 120, lambda: False)
    assert wired.said[1] == "which? 1: stand, 2: hang, 3: stop; within 4 s"
    sent = np.array([step.sent for step in wired.steps])
    assert done is False and np.abs(np.diff(sent[50:88], axis=0)).max() < 1e-6  # it rests
    assert replies == ["hang" if answers else ""]
    assert (wired.loop.faults == []) is answers and (asker.question, asker.poll()) == ("", "hang" if answers else "")
    assert wired.driver.waited == pytest.approx(69 if answers else 4 * HZ, abs=6)
    if answers:  # the time that it waited does not count
        assert len(sent) == pytest.approx(120 + wired.driver.waited, abs=3) and np.abs(sent[-1] - sent[60]).max() > 0.1


def test_a_driver_that_is_in_trouble_stops_the_arm_and_is_not_gone_on_with(wired):
    trouble = []
    wired.driver.watch = lambda reading: trouble[0] if trouble else None
    wired.at[20] = lambda: trouble.append((FaultKind.BLIND, "nothing to be seen"))
    assert wired.loop.episode(wired.driver, 300) is None
    assert wired.loop.faults == ["blind: nothing to be seen"]
    assert not wired.loop.recover(wired.driver, patience_s=0.5)
    trouble.clear()
    assert wired.loop.recover(wired.driver) and wired.arm.robot.fault is None


def test_what_stops_the_arm_in_the_last_step_is_told_too(wired):
    wired.driver.begin()
    wired.loop.episode(wired.driver, 30)
    count = len(wired.steps)
    wired.driver.begin()
    wired.driver.watch = lambda reading: (FaultKind.STUCK, "no way on") if len(wired.steps) == 2 * count - 1 else None
    wired.loop.episode(wired.driver, 30)
    assert len(wired.steps) == 2 * count and wired.loop.faults == ["stuck: no way on"]
    assert wired.arm.robot.command.resting


def test_an_episode_of_a_planner_begins_with_its_first_plan_and_says_what_was_done(wired):
    """Its steps count, and its task is judged, only from then on."""
    wired.planner.delays, judged = [10], []
    assert wired.loop.episode(wired.driver, 30, lambda: judged.append(1) or len(judged) == 3) is True
    assert len(judged) == 30 and len(wired.loop.ticks.late_s) == 41


@pytest.mark.parametrize(
    ("faults", "happens", "line"),
    [
        (1, lambda arm: arm.clock.sleep(0.5), None),
        (9, lambda arm: arm.clock.sleep(0.5), "(late-loop|stale): "),
        (1, lambda arm: setattr(arm.chain, "sags", 3), r"not at the episode's beginning: elbow_flex is -7\.1 degrees"),
        (1, lambda arm: arm.chain.tear(3, -40), "pushed: "),
    ],
)
def test_an_episode_begins_at_its_beginning_or_not_at_all(wired, faults, happens, line):
    loop, start, left = wired.loop, np.full(6, 0.2), [faults]
    send = loop.send

    def disturbed(target, reading):
        if left[0] > 0 and np.abs(target).max() > 0.1:  # half-way
            left[0] -= 1
            happens(wired.arm)
        return send(target, reading)

    loop.send = disturbed
    laid_out = []
    targets = wired.driver.estimator.targets
    mirror = SimpleNamespace(start=start, lay_out=laid_out.append, targets=targets)
    session = RunSession(RunConfig(checkpoint="c", robot="so101-twin", seed=7), None, None, None)
    wired.driver.estimator = mirror
    assert session.prepare(loop, wired.driver, 1) is (line is None)
    assert laid_out == evaluation_seeds(7, 0, 2)[1:]  # as an evaluation by the same seed
    if line is None:
        assert np.abs(loop.read().joints - start).max() < 0.1
    else:
        assert re.match(line, loop.faults[-1])
        assert "degrees" not in line or loop.ticks.passed > 15 * HZ + 5  # the patience begins when it should be there


def test_where_nobody_reads_nothing_is_raised(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise OSError(errno.EIO, "Input/output error")

    tried = []
    monkeypatch.setattr("sys.stderr", Closed())
    NoView().say("SIGHUP")
    assert tried == ["SIGHUP"]
