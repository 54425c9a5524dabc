"""Laws of braking: it never passes what it promised, whatever the lengths of the steps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robot.safety.braking import braked, stoppable, stopping, time_to_rest

rates = st.floats(-1e3, 1e3)
accelerations = st.floats(0.1, 1e4)
steps = st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=200)


def brake(rate: float, acceleration: float, lengths: list[float]):
    """How far, rate by rate."""
    moved = 0.0
    for dt in lengths:
        after = float(braked(rate, acceleration, dt))
        assert abs(after - rate) <= acceleration * dt * (1 + 1e-9) + 1e-9 * abs(rate)
        assert abs(after) <= abs(rate)
        assert after * rate >= 0
        rate, moved = after, moved + after * dt
    return moved, rate


@given(rates, accelerations, steps)
def test_braking_moves_at_most_the_stopping_distance_whatever_the_steps(rate, acceleration, lengths):
    moved, _ = brake(rate, acceleration, lengths)
    assert abs(moved) <= abs(float(stopping(rate, acceleration))) * (1 + 1e-9) + 1e-9
    assert moved * rate >= 0


@given(rates, accelerations, st.floats(1e-3, 0.5))
def test_braking_ends_at_rest_in_the_time_it_takes(rate, acceleration, dt):
    needed = int(np.ceil(time_to_rest(np.array([rate]), np.array([acceleration])) / dt)) + 1
    for _ in range(min(needed, 20_000)):
        rate = float(braked(rate, acceleration, dt))
    assert rate == 0 or needed > 20_000


@given(st.floats(0, 1e3), accelerations, st.floats(1e-4, 0.5), steps)
def test_the_stoppable_rate_can_be_stopped_before_the_edge(room, acceleration, dt, lengths):
    rate = float(stoppable(room, acceleration, dt))
    moved, _ = brake(rate, acceleration, lengths)
    assert rate * dt + moved <= room * (1 + 1e-9) + 1e-9


@given(st.floats(0.1, 1e3), accelerations, st.floats(1e-3, 0.5))
def test_no_faster_rate_could(room, acceleration, dt):
    rate = 1.001 * float(stoppable(room, acceleration, dt))
    assert rate * dt + float(stopping(rate, acceleration)) > room


@given(st.floats(1e-3, 1e3), accelerations)
def test_in_the_limit_of_short_steps_it_is_the_continuous_law(room, acceleration):
    at = float(stoppable(room, acceleration, 1e-9))
    assert np.isclose(at, np.sqrt(2 * acceleration * room), rtol=1e-4)


@given(rates, accelerations, st.floats(0, 1e3), st.floats(1e-4, 0.5))
def test_a_stoppable_rate_stays_one_under_braking(rate, acceleration, slack, dt):
    rate = abs(rate)
    room = float(stopping(rate, acceleration)) + slack
    after = float(braked(rate, acceleration, dt))
    assert stopping(after, acceleration) <= (room - after * dt) * (1 + 1e-9) + 1e-9
