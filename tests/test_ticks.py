"""Ticks that do not drift, jerks that are those of the motion, and a priority that is given back."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.loop import Smoothness
from robot.ticks import SimulatedTime, Ticks, hurry, same_priority

HZ = 30.0


@given(st.integers(1, 18), st.floats(0, 20))
def test_ticks_that_are_missed_are_left_out_but_never_the_last_and_the_next_keeps_its_time(arms, at, missed):
    clock = arms.Clock(100.0, 1e-6)
    ticks, begun, start = Ticks(HZ, clock), [], None
    for k in ticks.run(20):
        start = clock.now if start is None else start
        begun.append((k, clock.now - start))
        clock.now += missed / HZ * (k == at)
    numbers = [k for k, _ in begun]
    assert numbers[-1] == 19 and sorted(set(numbers)) == numbers and len(numbers) + ticks.skipped == 20 == ticks.passed
    busy_until = (at + missed) / HZ
    for k, when in begun:
        late = max(busy_until - k / HZ, 0.0) if k > at else 0.0
        assert when - k / HZ == pytest.approx(late, abs=1e-4)
        assert late < 1 / HZ + 1e-4 or k == 19


def test_simulated_time_passes_only_by_commands_and_its_ticks_are_never_late_nor_left_out():
    robot = SimpleNamespace(time_s=0.0)
    ticks = Ticks(30, SimulatedTime(robot))
    before = ticks.clock.monotonic()
    ticks.clock.sleep(5)
    assert before < ticks.clock.monotonic() < before + 1e-3
    for _ in ticks.run(3_000):
        for _ in range(20):
            ticks.clock.monotonic()
        robot.time_s += 1 / 30
    assert (len(ticks.late_s), ticks.late, ticks.skipped) == (3_000, 0, 0)
    assert ticks.mean_hz == pytest.approx(30, abs=1e-3)


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


def test_neither_a_new_episode_nor_a_tick_left_out_is_a_jerk():
    smooth, line = Smoothness(HZ), np.linspace(0, 1, 8)[:, None]
    for k, target in enumerate(line):
        smooth(step(k, target))
    for target in line[::2] + 5:
        smooth(step(0, target))
    smooth(step(1, line[0] - 5, steps=2))
    assert smooth.mean_squared_jerk == pytest.approx(0, abs=1e-12)
    assert smooth.largest_step == pytest.approx(1 / 7)
    assert Smoothness(HZ).summary() == {"largest_step_deg": 0.0, "mean_squared_jerk": None}


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="asks as Linux does")
def test_priority_is_given_back():
    state = lambda: (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0))  # noqa: E731
    before = state()
    with same_priority():
        assert (hurry() == "real-time") == (state()[0] == os.SCHED_RR)
    assert state() == before
