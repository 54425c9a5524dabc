"""Laws of the SO-101's tasks: bounded, at the rate asked for, judged by success, told apart by what the state holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from envs.make import make
from envs.settings import TaskConfig
from envs.state_estimator import StateEstimator
from sim.so101.joints import SPEEDS, Targets
from sim.so101.tasks import ABSOLUTE, CONTROLS, TASKS
from worldmodel.senses import STATE_KEY

LOW, HIGH = np.array([-1.9, -1.7, -1.6, -1.6, -2.7, -0.1]), np.array([1.9, 1.7, 1.6, 1.6, 2.7, 1.7])
REST = np.zeros(6, np.float32)
SHARES = arrays(np.float64, 6, elements=st.floats(0, 1))


@pytest.fixture(scope="module")
def touch():
    return make(TaskConfig("so101-touch"))


@pytest.fixture(scope="module")
def wander():
    """Actions (60, 6) that go somewhere: from seed 1, they look at the object now and then."""
    return np.random.default_rng(0).uniform(-1, 1, (60, 6)).astype(np.float32)


def ends(env, actions, seed):
    """How each step of an episode ends: (terminated, truncated, whether it is a success)."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        steps.append((terminated, truncated, info["is_success"]))
    return steps


@pytest.mark.parametrize("name", ["so101-touch", "so101-look-at"])
def test_where_a_real_arm_may_be_told_a_thing_is_is_where_training_lays_it(name):
    env, task = make(TaskConfig(name)), TASKS[name]
    laid = []
    for seed in range(200):
        env.reset(seed=seed)
        scene = env.unwrapped
        laid.append((scene.data.mocap_pos[0] if scene.model.nmocap else scene.data.qpos[6:9]).copy())
    env.close()
    assert not any(map(task.untrained, laid))
    low, high = np.min(laid, 0), np.max(laid, 0)
    for beyond in ((low[0] - 0.02, 0), (high[0] + 0.02, 0), (0.15, low[1] - 0.02), (0.15, high[1] + 0.02)):
        assert task.untrained((*beyond, 0.012)).startswith("trained with things on the table (z 0 to 0.04 m) at ")
    assert task.untrained((*laid[0][:2], 0.05)) and task.untrained((*laid[0][:2], -0.01))


@given(SHARES, arrays(np.float64, 6, elements=st.floats(-1e6, 1e6)), st.floats(5, 100), st.sampled_from(CONTROLS))
def test_no_action_leaves_the_joints_range_or_goes_faster_than_allowed(last, action, hz, control):
    targets = Targets.at(hz, LOW, HIGH, control)
    last = LOW + last * (HIGH - LOW)
    after = targets.next(last, action)
    assert np.all((after >= LOW) & (after <= HIGH))
    if control != ABSOLUTE:
        assert np.all(np.abs(after - last) <= np.array(SPEEDS) / hz + 1e-12)


@given(SHARES, arrays(np.float64, 6, elements=st.floats(-1, 1)), st.sampled_from(CONTROLS))
def test_the_action_of_a_target_leads_to_it(last, action, control):
    targets = Targets.at(50, LOW, HIGH, control)
    last = LOW + last * (HIGH - LOW)
    after = targets.next(last, action)
    np.testing.assert_allclose(targets.next(last, targets.action(last, after)), after, atol=1e-9)
    assert np.abs(targets.action(last, after + 9)).max() <= 1


@pytest.mark.parametrize("hz", [20.0, 50.0])
def test_a_control_step_lasts_its_period_an_episode_its_seconds_and_at_rest_the_arm_is_at_its_target(hz):
    env = make(TaskConfig("so101-touch", control_hz=hz))
    env.reset(seed=0)
    data, target = env.unwrapped.data, env.unwrapped.data.ctrl.copy()
    start = data.time
    truncated = [env.step(REST)[3] for _ in range(env.metadata["episode_limit"])]
    assert data.time - start == pytest.approx(TASKS["so101-touch"].seconds)
    assert env.metadata["render_fps"] == pytest.approx(hz)
    assert truncated == [False] * (len(truncated) - 1) + [True]
    np.testing.assert_allclose(data.ctrl, target, atol=1e-6)
    np.testing.assert_allclose(data.qpos[:6], target, atol=0.05)


def test_an_absolute_action_is_the_target_wherever_the_arm_is():
    env = make(TaskConfig("so101-touch", control=ABSOLUTE))
    env.reset(seed=0)
    action = np.array([0.3, 0, 0, 0.2, -0.5, 1], np.float32)
    env.step(action)
    low, high = env.unwrapped.action_space.low, env.unwrapped.action_space.high
    np.testing.assert_allclose(env.unwrapped.commanded, low + (action + 1) / 2 * (high - low), atol=1e-6)


def test_success_ends_an_episode_only_where_it_should(wander):
    goes_on, stops = (make(TaskConfig("so101-look-at", end_on_success=end)) for end in (False, True))
    steps = ends(goes_on, wander, 1)
    when = [success for *_, success in steps].index(True)
    assert not any(terminated for terminated, *_ in steps) and steps[-1][1]
    assert [terminated for terminated, *_ in ends(stops, wander[: when + 1], 1)] == [False] * when + [True]


def test_episodes_begin_anywhere_where_they_should_again_from_the_same_seed_and_at_rest_on_an_arm():
    task = TaskConfig("so101-move", state="joints", reward="none", start="anywhere")
    env, begun = make(task), []
    for seed in (*range(20), *range(20)):
        env.reset(seed=seed)
        begun.append(env.unwrapped.data.qpos[:5].copy())
    first, again = np.split(np.array(begun), 2)
    np.testing.assert_array_equal(first, again)
    folded = np.abs(first - env.unwrapped.config.robot.rest_qpos_rad[:5]).max(1) < 0.1
    assert 2 <= folded.sum() <= 10 and first[~folded].std(0).min() > 0.4
    mirror = StateEstimator(task)
    mirror.lay_out(int(np.flatnonzero(~folded)[0]))
    assert np.abs(mirror.start[:5] - env.unwrapped.config.robot.rest_qpos_rad[:5]).max() < 0.1


def test_a_state_of_the_joints_alone_holds_nothing_of_the_scene_and_the_lag_is_behind_the_target(touch):
    joints = make(TaskConfig("so101-touch", state="joints"))
    states = []
    for env in (joints, touch):
        for away in (0.0, 0.02):
            env.reset(seed=3)
            env.unwrapped.data.qpos[6:9] += away
            states.append(env.step(REST + 1)[0][STATE_KEY])
    own, own_moved, full, full_moved = states
    assert own.shape == (25,) and full.shape == (37,)
    np.testing.assert_array_equal(own, own_moved)
    assert np.abs(full - full_moved).max() > 0.01
    assert set(own.tolist()) <= set(full.tolist())
    base = joints.unwrapped  # its components by name in alphabetical order, `target_lag` last
    np.testing.assert_allclose(own[-6:], base.commanded - base.data.qpos[:6], atol=1e-6)
