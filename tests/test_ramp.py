"""Laws of a servo's ramp: it keeps its bounds, goes on from where it is and arrives; the arm's is the twin's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.ramp import ACCELERATION, FASTEST, STEPS, UNIT, radians, ramp
from sim.so101 import scene as so101
from sim.twin.servo import Servo

FAST, RATE = radians(FASTEST), radians(UNIT * ACCELERATION)
PLACES, PACES = st.floats(-3, 3), st.floats(-FAST, FAST)
RATES = st.sampled_from([RATE, RATE / 10, 10 * RATE])
HZ = 30


@given(PLACES, PACES, RATES, st.floats(0, 2), st.floats(0, 2))
def test_a_ramp_goes_on_from_wherever_it_is_as_it_would_have(away, speed, rate, first, more):
    (was, whole), pace = ramp(away, speed, FAST, rate, (first, first + more))
    (begun,), middle = ramp(away, speed, FAST, rate, (first,))
    (rest,), last = ramp(away - begun, middle, FAST, rate, (more,))
    assert was == begun
    assert (begun + rest, last) == pytest.approx((whole, pace), abs=1e-6 * (1 + rate))


@given(PLACES, PACES, RATES)
def test_it_is_never_faster_nor_changes_faster_than_it_may_and_arrives_at_rest(away, speed, rate):
    times = np.linspace(0, 2 * FAST / rate + 2 * (3 + FAST**2 / rate) / FAST + 2 * math.sqrt(3 / rate) + 1, 400)
    places, pace = ramp(away, speed, FAST, rate, times.tolist())
    speeds = np.diff(places) / np.diff(times)
    assert np.abs(speeds).max() <= FAST * (1 + 1e-6)
    assert np.abs(np.diff([speed, *speeds])).max() <= rate * times[1] * (1 + 1e-6) + 1e-6
    assert (places[-1], pace) == (away, 0)


@given(st.floats(0.001, 3), RATES)
def test_from_rest_no_motion_within_its_bounds_is_sooner_there(away, rate):
    soonest = 2 * math.sqrt(away / rate) if away * rate < FAST**2 else away / FAST + FAST / rate
    (early, there), _ = ramp(away, 0.0, FAST, rate, (0.99 * soonest, 1.0001 * soonest))
    assert early < away == there
    (limited,), _ = ramp(away, 0.0, FAST, 0.0, (0.5 * away / FAST,))  # without a ramp: the speed alone
    assert limited == pytest.approx(away / 2)


def test_for_the_same_goals_the_simulated_arms_setpoint_is_a_twins_servos_to_an_encoders_step():
    env, servo, rng = so101.build("so101-touch", HZ, end_on_success=False), Servo(1), np.random.default_rng(0)
    env.reset(seed=0)
    start, dt_s = env.commanded.copy(), env.model.opt.timestep
    servo.write(40, b"\x01")
    servo["Acceleration"], off, moved = ACCELERATION, [], []
    for goal in np.cumsum(rng.integers(-50, 80, 30)):
        servo["Goal_Position"] = STEPS // 2 + int(goal)
        env.step((start + radians(float(goal)) * np.eye(6)[0]).astype(np.float32))
        for _ in range(round(1 / HZ / dt_s)):
            place = servo.drive(dt_s).target
            servo.sense(place, servo.speed, 0.0, dt_s)
        moved.append(env.setpoint[0] - start[0])
        off.append(radians(place - STEPS / 2) - moved[-1])
    assert np.abs(off).max() < radians(1) and np.ptp(moved) > 0.3
    assert np.abs(env.data.ctrl - env.setpoint).max() == 0 < np.abs(env.commanded - env.setpoint).max()


def test_without_acceleration_the_arm_is_sent_each_target_at_once():
    env = so101.build("so101-touch", HZ, end_on_success=False, acceleration=0)
    env.reset(seed=0)
    env.step(np.full(6, 0.1, np.float32))
    np.testing.assert_array_equal(env.data.ctrl, env.commanded)
