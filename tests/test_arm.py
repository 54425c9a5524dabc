"""Laws of the SO-101's tasks: repeatable, bounded, at the rate asked for, told apart by success, drawn cheaply."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from envs.faults import EnvironmentFault
from envs.make import episode_limit, make, make_vector
from envs.settings import TaskConfig
from sim.so101.targets import SPEEDS, Targets
from sim.so101.tasks import ABSOLUTE, CONTROLS, DELTA, TASKS

STATE_KEY = "observation.state"
LOW, HIGH = np.array([-1.9, -1.7, -1.6, -1.6, -2.7, -0.1]), np.array([1.9, 1.7, 1.6, 1.6, 2.7, 1.7])


@pytest.fixture(scope="module")
def touch():
    return make(TaskConfig("so101-touch"))


def wander(count, seed=0):
    """Actions (count, 6) that go somewhere."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 6)).astype(np.float32)


def play(env, actions, seed):
    """All that an episode shows: states, rewards, ends, successes."""
    observation, info = env.reset(seed=seed)
    shown = [(observation[STATE_KEY], info["is_success"])]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        shown.append((observation[STATE_KEY], reward, terminated, truncated, info["is_success"]))
    return shown


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


@given(
    last=arrays(np.float64, 6, elements=st.floats(0, 1)),
    action=arrays(np.float64, 6, elements=st.floats(-1e6, 1e6)),
    hz=st.floats(5, 100),
    control=st.sampled_from(CONTROLS),
)
def test_no_action_leaves_the_joints_range_or_goes_faster_than_allowed(last, action, hz, control):
    targets = Targets.at(hz, LOW, HIGH, control)
    last = LOW + last * (HIGH - LOW)
    after = targets.next(last, action)
    assert np.all((after >= LOW) & (after <= HIGH))
    if control == DELTA:
        assert np.all(np.abs(after - last) <= np.array(SPEEDS) / hz + 1e-12)


@given(
    last=arrays(np.float64, 6, elements=st.floats(0.3, 0.7)),
    action=arrays(np.float64, 6, elements=st.floats(-1, 1)),
    control=st.sampled_from(CONTROLS),
)
def test_the_action_of_a_target_leads_to_it(last, action, control):
    targets = Targets.at(50, LOW, HIGH, control)
    last = LOW + last * (HIGH - LOW)
    after = targets.next(last, action)
    np.testing.assert_allclose(targets.next(last, targets.action(last, after)), after, atol=1e-9)


@pytest.mark.parametrize("hz", [20.0, 30.0, 50.0])
def test_a_decision_lasts_a_control_period_and_an_episode_its_seconds(hz):
    env = make(TaskConfig("so101-touch", control_hz=hz))
    env.reset(seed=0)
    start = env.unwrapped.data.time
    ends = [env.step(np.zeros(6, np.float32))[3] for _ in range(episode_limit(env))]
    seconds = TASKS["so101-touch"].seconds
    assert env.unwrapped.data.time - start == pytest.approx(seconds)
    assert env.metadata["render_fps"] == pytest.approx(hz)
    assert ends == [False] * (len(ends) - 1) + [True]


def test_without_action_the_target_stays_and_the_arm_comes_to_it(touch):
    touch.reset(seed=3)
    told = touch.unwrapped.data.ctrl.copy()
    for _ in range(30):
        touch.step(np.zeros(6, np.float32))
    np.testing.assert_allclose(touch.unwrapped.data.ctrl, told, atol=1e-6)
    np.testing.assert_allclose(touch.unwrapped.data.qpos[:6], told, atol=0.05)


def test_an_absolute_action_is_the_target_wherever_the_arm_is():
    env = make(TaskConfig("so101-touch", control=ABSOLUTE))
    env.reset(seed=0)
    action = np.array([0.3, 0, 0, 0.2, -0.5, 1], np.float32)
    env.step(action)
    low, high = env.unwrapped.action_space.low, env.unwrapped.action_space.high
    np.testing.assert_allclose(env.unwrapped.data.ctrl, low + (action + 1) / 2 * (high - low), atol=1e-6)


def test_success_ends_an_episode_only_where_it_should():
    """Random motion looks at the object now and then."""
    goes_on, ends = (make(TaskConfig("so101-look-at", end_on_success=end)) for end in (False, True))
    shown = play(goes_on, wander(60), 1)[1:]
    when = [success for *_, success in shown].index(True)
    assert not any(terminated for _, _, terminated, _, _ in shown)
    assert shown[-1][3]
    stopped = play(ends, wander(60)[: when + 1], 1)[1:]
    assert [terminated for _, _, terminated, _, _ in stopped] == [False] * when + [True]


def test_a_vector_says_who_succeeded():
    vector = make_vector(TaskConfig("so101-look-at"), 2, processes=False)
    vector.reset(seed=[1, 2])
    alone = make(TaskConfig("so101-look-at"))
    expected = np.array([[shown[-1] for shown in play(alone, wander(20), seed)[1:]] for seed in (1, 2)]).T
    told = np.array([vector.step(np.stack([action] * 2))[-1]["is_success"] for action in wander(20)])
    np.testing.assert_array_equal(told, expected)
    assert told.any()


def test_a_state_of_the_joints_alone_tells_nothing_of_the_scene(touch):
    joints = make(TaskConfig("so101-touch", state="joints"))
    shown = []
    for env in (joints, touch):
        for away in (0.0, 0.02):
            env.reset(seed=3)
            env.unwrapped.data.qpos[6:9] += away
            shown.append(env.step(np.zeros(6, np.float32))[0][STATE_KEY])
    own, own_moved, full, full_moved = shown
    assert own.shape == (25,) and full.shape == (37,)
    np.testing.assert_array_equal(own, own_moved)
    assert np.abs(full - full_moved).max() > 0.01
    assert set(own.tolist()) <= set(full.tolist())


def test_a_divergence_is_a_fault_that_says_where(touch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a note of it where it runs
    touch.reset(seed=0)
    touch.unwrapped.data.qvel[2] = np.nan
    with pytest.raises(EnvironmentFault, match="so101-touch, control step 1: the physics diverged"):
        touch.step(np.zeros(6, np.float32))
    touch.reset(seed=0)
    touch.step(np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "so101-tuch"}, "task.name=so101-tuch: no such task; the SO-101's are so101-touch, "),
        (
            {"name": "so101-touch", "action_repeat": 2},
            "task.action_repeat=2: 1 for the SO-101's tasks, whose pace task.contr",
        ),
        ({"name": "so101-touch", "control_hz": 1.0}, "task.control_hz=1.0: from 5 to 100"),
        ({"name": "so101-touch", "control": "ee"}, "task.control=ee: one of delta, absolute"),
        ({"name": "so101-touch", "control": "tied"}, "task.control=tied: now delta"),
        ({"name": "so101-touch", "state": "joint"}, "task.state=joint: one of full, joints"),
        ({"name": "walker-walk", "end_on_success": True}, "task.end_on_success=True: only for the SO-101's tasks"),
        ({"name": "so101-touch", "id": "Pendulum-v1"}, "task.id=Pendulum-v1: only with task.name=gym"),
    ],
)
def test_a_wrong_key_is_one_line(keys, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")) as caught:
        TaskConfig(**keys)
    assert "\n" not in str(caught.value)
