"""Ticks that do not drift, motions that end at rest, plans that come late."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.arm.running import Running
from policies.training.rollouts import evaluation_seeds
from robot.loop import Loop, Reading
from robot.running.plan_follower import PlanFollower, Plans, TokenTrack
from robot.running.settings import RunConfig
from robot.running.sinks import Smoothness
from robot.safety.faults import FaultKind
from robot.ticks import Ticks
from robot.units import Units
from sim.so101.joints import Targets

HZ = 30.0
GOAL, PRESENT = 42, 56  # where a servo keeps its goal and its place
LOW, HIGH = np.full(6, -2.0), np.full(6, 2.0)


class Clock:
    """Time that passes when it is waited for; a sleeper is woken `late` too late, a look at it costs a microsecond."""

    def __init__(self, late=0.0):
        self.now, self.late = 100.0, late

    def monotonic(self):
        self.now += 1e-6
        return self.now

    def sleep(self, seconds):
        self.now += seconds + self.late


@given(st.lists(st.floats(0, 0.03), min_size=5, max_size=40), st.floats(0, 0.0009))
def test_ticks_come_at_their_moments_whatever_the_work_and_the_sleep_take(works, late):
    clock = Clock(late)
    ticks, begins = Ticks(HZ, clock), []
    for _ in ticks.run(len(works)):
        begins.append(clock.now)
        clock.now += works[len(begins) - 1]
    away = np.array(begins) - begins[0] - np.arange(len(works)) / HZ
    assert np.abs(away).max() < 1e-5
    assert ticks.skipped == 0
    assert max(ticks.late_s) < 1e-5


@given(st.integers(1, 8), st.integers(1, 5), st.floats(0.1, 0.9))
def test_moments_missed_are_left_out_and_the_next_keeps_its_place(at, missed, more):
    clock, work = Clock(), (missed + more) / HZ
    ticks, seen, start = Ticks(HZ, clock), [], None
    for k in ticks.run(20):
        start = clock.now if start is None else start
        seen.append((k, clock.now - start))
        if k == at:
            clock.now += work
    assert len(seen) + ticks.skipped == 20
    assert ticks.skipped == missed - 1
    for k, when in seen:
        late = more / HZ if k == at + missed else 0.0
        assert when - k / HZ == pytest.approx(late, abs=1e-4)


@given(st.integers(1, 18), st.floats(0, 2))
def test_the_last_moment_is_never_left_out(at, stall):
    clock, seen = Clock(), []
    ticks = Ticks(HZ, clock)
    for k in ticks.run(20):
        seen.append(k)
        clock.now += stall * (k == at)
    assert seen[-1] == 19 and len(set(seen)) == len(seen) == 20 - ticks.skipped


def step(number, sent, steps=1):
    """A step of a loop, of which only the target counts."""
    return SimpleNamespace(number=number, sent=sent, reading=SimpleNamespace(steps=steps))


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.sampled_from([10.0, 30.0, 50.0]), st.integers(4, 20))
def test_a_cubic_has_the_jerk_of_its_leading_term_at_any_rate(terms, hz, count):
    smooth, path = Smoothness(hz), np.polynomial.Polynomial(terms)
    sent = [np.array([path(k / hz), 1.0]) for k in range(count)]  # of two joints one rests
    for number, target in enumerate(sent):
        smooth(step(number, target))
    assert smooth.mean_squared_jerk == pytest.approx((6 * terms[3]) ** 2 / 2, rel=1e-4, abs=1e-5)
    assert smooth.largest_step == pytest.approx(np.abs(np.diff(sent, axis=0)).max())


def test_neither_a_new_episode_nor_a_moment_left_out_is_a_jerk():
    smooth, line = Smoothness(HZ), np.linspace(0, 1, 8)[:, None]
    for k, target in enumerate(line):
        smooth(step(k, target))
    for target in line[::2] + 5:
        smooth(step(0, target))
    smooth(step(1, line[0] - 5, steps=2))
    assert smooth.mean_squared_jerk == pytest.approx(0, abs=1e-12)
    assert smooth.largest_step == pytest.approx(1 / 7)
    assert Smoothness(HZ).summary() == {"largest_step_deg": 0.0, "mean_squared_jerk": None}


def targets(control="tied") -> Targets:
    return Targets.at(HZ, LOW, HIGH, control)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=6, max_size=6), min_size=1, max_size=6), st.booleans())
def test_past_a_curve_the_arm_comes_to_rest_evenly_within_its_range_and_stays(actions, absolute):
    motion = TokenTrack(targets("absolute" if absolute else "tied"), HZ)
    motion.begin(np.array(actions))
    last, path = np.zeros(6), [np.zeros(6)]
    for _ in range(len(actions) + 20):
        last = motion.next(last)
        path.append(last)
    path = np.array(path)
    assert (path >= LOW).all()
    assert (path <= HIGH).all()
    rates = np.diff(path, axis=0)
    tail = np.abs(rates[len(actions) - 1 :])
    assert (np.diff(tail, axis=0) <= 1e-12).all()
    assert not rates[len(actions) + 7 :].any()


def test_what_lies_ahead_is_what_comes():
    motion, rng = TokenTrack(targets(), HZ), np.random.default_rng(0)
    motion.begin(rng.uniform(-1, 1, (5, 6)))
    last = motion.next(np.zeros(6))
    ahead = motion.ahead(last)
    assert len(ahead) == motion.left == 4
    for expected in ahead:
        last = motion.next(last)
        assert np.array_equal(last, expected)


class Thinker:
    """Plans curves of four steps, each `delay` steps after the question; the first action of number n is n / 100.

    Without a delay it is lost, and found again.
    """

    def __init__(self, *delays):
        self.delays, self.asked, self.now, self.due = list(delays), [], 0, []

    def ask(self, state, fresh, frames, there):
        self.asked.append((self.now, float(state), fresh))
        number = len(self.asked)
        delay = self.delays.pop(0) if self.delays else 1
        if delay is not None:
            actions = np.full((4, 6), number / 100)
            self.due.append((self.now + delay, SimpleNamespace(number=number, plan_ms=1.0, actions=actions)))
        return number

    def awaits(self, number):
        return any(answer.number == number for _, answer in self.due)

    def poll(self):
        ready = [answer for at, answer in self.due if at <= self.now]
        self.due = [(at, answer) for at, answer in self.due if at > self.now]
        return ready

    def gone(self):
        return ""


class Senses:
    """Whose state is the number of targets that lie ahead."""

    targets = targets()

    def __init__(self):
        self.followed = []

    def follow(self, reading, sent, bodies=None, steps=1):
        self.followed.append(steps)

    def state(self, ahead):
        return len(ahead)

    def success(self):
        return False


def reading(joints, steps=1) -> Reading:
    return Reading({}, joints, joints, 0.0, steps)


def advance(follower, last, steps=1):
    """One control step: the target that is sent."""
    here = reading(last, steps)
    target = follower.goal(here, last)
    assert follower.watch(here) is None
    follower.sent(target)
    return target


def pursue(planner, steps, lead=2) -> tuple[list[float], Plans]:
    """The actions taken, one a step, and how planning went."""
    follower, step = PlanFollower(Senses(), planner, HZ, lead), targets().step[0]
    last, taken = np.zeros(6), []
    for planner.now in range(steps):
        target = advance(follower, last)
        taken.append(round(float((target - last)[0] / step), 6))
        last = target
    return taken, follower.plans


@pytest.mark.parametrize("lead", [1, 2, 4])
def test_plans_in_time_make_one_unbroken_motion(lead):
    thinker = Thinker(*[1] * 50)
    taken, plans = pursue(thinker, 41, lead)
    assert taken == [0.0] + [n / 100 for n in range(1, 11) for _ in range(4)]
    assert plans.late == 0
    assert [state for _, state, _ in thinker.asked[1:]] == [min(lead, 3)] * len(thinker.asked[1:])
    assert [fresh for *_, fresh in thinker.asked] == [True] + [False] * (len(thinker.asked) - 1)


def test_a_late_plan_is_the_tail_of_the_last_curve_then_goes_on():
    taken, plans = pursue(Thinker(1, 5, 1), 14)
    assert taken[:5] == [0.0, 0.01, 0.01, 0.01, 0.01]
    assert 0.01 > taken[5] > taken[6] > 0
    assert taken[7:11] == [0.02] * 4
    assert plans.late == 1


def test_steps_that_are_left_out_make_a_plan_late_but_not_those_of_a_curve_that_goes_on():
    for at, steps, kept in ((3, 9, True), (6, 1, True), (6, 2, True), (6, 3, False)):
        thinker = Thinker(1, 6, 1, 1)  # the second is three steps late, and four long
        follower, last, heard = PlanFollower(Senses(), thinker, HZ, 2), np.zeros(6), set()
        for thinker.now in range(20):
            last = advance(follower, last, steps if thinker.now == at else 1)
            heard.add(follower.answer and follower.answer.number)
        assert (2 in heard) is kept, (at, steps)


def test_a_plan_too_late_or_lost_is_asked_for_again_from_rest():
    thinker = Thinker(1, 15, None, 1)
    taken, plans = pursue(thinker, 80)
    assert [fresh for *_, fresh in thinker.asked[:5]] == [True, False, True, True, False]  # from rest: anew
    assert plans.late == 1
    resting = taken.index(0.0, 1)
    assert set(taken[resting : taken.index(0.04)]) == {0.0}
    assert 0.02 not in taken
    assert taken[taken.index(0.04) :][:4] == [0.04] * 4


@pytest.mark.parametrize("delay", [12, 45, 200])
def test_a_planner_however_slow_moves_the_arm_and_is_asked_one_thing_at_a_time(delay):
    thinker = Thinker(*[delay] * 99)
    taken, plans = pursue(thinker, 6 * delay)
    followed = {round(100 * action) for action in taken if action in (0.01, 0.02, 0.03, 0.04, 0.05)}
    assert {1, 3} <= followed  # 2 was asked for while the arm still moved
    for first, then in zip(thinker.asked, thinker.asked[1:], strict=False):
        assert then[0] - first[0] >= delay
    assert plans.late >= 2


class Shown(list):
    """Keeps the steps; `at` a tick something happens."""

    def __init__(self, **at):
        self.at, self.said = at, []

    def __call__(self, step):
        self.append(step)
        self.at.get(f"tick{len(self)}", lambda: None)()

    def say(self, text):
        self.said.append(text)


class Wave(Thinker):
    """Plans to and fro, at once."""

    def ask(self, *question):
        number = super().ask(*question)
        self.due = [(0, SimpleNamespace(number=number, plan_ms=1.0, actions=np.full((4, 6), 0.2)))]
        return number


@pytest.fixture
def wired(arms, tmp_path, monkeypatch):
    """LeRobot's arm at the end of a wire and a loop that drives it, in a time that passes when it is waited for."""
    arm, shown = arms.WiredArm(tmp_path, monkeypatch.setattr), Shown()
    loop = Loop(arm.robot, Units(LOW, HIGH), Ticks(HZ, arm.clock), [shown], shown.say)
    with arm.robot:
        yield SimpleNamespace(arm=arm, loop=loop, shown=shown, driver=PlanFollower(Senses(), Wave(), HZ, 2))


def push(chain, number=3):
    """Tear a servo away by 40 degrees."""
    memory = chain.memory[number]
    place = int.from_bytes(memory[PRESENT : PRESENT + 2], "little")
    memory[PRESENT : PRESENT + 2] = (place - 455).to_bytes(2, "little")


def hold(chain, number=3):
    """Keep a servo where it is."""
    follow = chain.follow
    chain.follow = lambda memory: None if memory is chain.memory[number] else follow(memory)


def sag(chain, number=3):
    """Let a servo stay seven degrees short of its goal."""
    follow, memory = chain.follow, chain.memory[number]

    def sagging(each):
        follow(each)
        if each is memory:
            goal = int.from_bytes(memory[GOAL : GOAL + 2], "little")
            memory[PRESENT : PRESENT + 2] = (goal - 80).to_bytes(2, "little")

    chain.follow = sagging


@pytest.mark.parametrize(
    ("kind", "happens"),
    [
        (FaultKind.STALLED, lambda arm: hold(arm.chain)),
        (FaultKind.PUSHED, lambda arm: push(arm.chain)),
        (FaultKind.LATE, lambda arm: arm.clock.sleep(0.5)),
    ],
)
def test_what_somebody_has_to_look_at_first_does_not_go_on_by_itself(wired, kind, happens):
    wired.shown.at["tick20"] = lambda: happens(wired.arm)
    assert wired.loop.episode(wired.driver, 300, lambda: False) is False
    assert wired.arm.robot.fault.kind is kind
    assert wired.shown.said == [f"stopped: {wired.arm.robot.fault}"]
    assert wired.loop.recover(wired.driver) is (kind is FaultKind.LATE)
    assert (wired.arm.robot.fault is None) is (kind is FaultKind.LATE)


def test_ticks_that_are_left_out_are_told(wired):
    wired.shown.at["tick20"] = lambda: wired.arm.clock.sleep(3.5 / HZ)
    assert wired.loop.episode(wired.driver, 60, lambda: False) is False
    steps = wired.driver._estimator.followed
    assert sorted(steps)[-2:] == [1, 3]
    assert sum(steps) == len(steps) + wired.loop.ticks.skipped


@pytest.mark.parametrize(
    ("faults", "happens", "line"),
    [
        (1, lambda arm: arm.clock.sleep(0.5), None),
        (9, lambda arm: arm.clock.sleep(0.5), "(late-loop|stale): "),
        (1, lambda arm: sag(arm.chain), r"not at the episode's beginning: elbow_flex is -7\.1 degrees off after 15 s"),
        (1, lambda arm: push(arm.chain), "pushed: "),
    ],
)
def test_an_episode_begins_at_its_beginning_or_not_at_all(wired, faults, happens, line, capsys):
    loop, start, left = wired.loop, np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), [faults]
    send = loop.send

    def disturbed(target, reading):
        if left[0] > 0 and np.abs(target).max() > 0.1:  # half-way
            left[0] -= 1
            happens(wired.arm)
        return send(target, reading)

    loop.send = disturbed
    laid_out = []
    mirror = SimpleNamespace(start=start, lay_out=laid_out.append)
    run = Running(RunConfig("c", robot="so101-twin", seed=7), None, None, None, None)
    assert run._prepare(loop, wired.driver, mirror, 1) is (line is None)
    assert laid_out == evaluation_seeds(7, 0, 2)[1:]  # as an evaluation by the same seed
    if line is None:
        assert np.abs(loop.read().joints - start).max() < 0.1
    else:
        assert re.match(line, loop.faults[-1])
        assert loop.faults[-1] in capsys.readouterr().err + "".join(wired.shown.said)
