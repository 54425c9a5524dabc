"""The state estimated from an arm's readings is what training would have observed, now and some steps ahead."""

import numpy as np
import pytest

from envs.make import make
from envs.settings import TaskConfig
from envs.state_estimator import CORRECTION, StateEstimator
from policies.settings import QUANTITIES
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS, TICK_RAD, Units
from worldmodel.senses import STATE_KEY

TASK = TaskConfig("so101-touch")
NOW = np.zeros((0, 6))


@pytest.fixture(scope="module")
def mirror():
    mirror = StateEstimator(TASK)
    yield mirror
    mirror.close()


@pytest.fixture(scope="module")
def env():
    env = make(TASK)
    yield env
    env.close()


@pytest.fixture(scope="module")
def parts(env) -> dict[str, slice]:
    """Where each part lies in a state: parts in alphabetical order."""
    sizes = {name: part.stop - part.start for name, part in so101.components(env).items()} | {"target_lag": 6}
    found, at = {}, 0
    for name in sorted(sizes):
        found[name] = slice(at, at := at + sizes[name])
    return found


def read(env) -> np.ndarray:
    """The joints (6,) as encoders give them."""
    units = Units(*so101.limits(env))
    return units.to_rad(units.read(so101.positions(env)))


def play(env, mirror, seed: int, steps: int):
    """Training's episode with the mirror following: the states of both at each step (steps, 2, S)."""
    rng, action = np.random.default_rng(seed), np.zeros(6)
    observation, _ = env.reset(seed=seed)
    mirror.lay_out(seed)
    pairs = []
    for _ in range(steps):
        mirror.follow(read(env), env.unwrapped.commanded.copy())
        pairs.append((observation[STATE_KEY], mirror.state(NOW)))
        action = 0.8 * action + 0.2 * rng.uniform(-1, 1, 6)
        observation, *_ = env.step(action.astype(np.float32))
    return np.array(pairs)


def test_a_state_from_readings_is_trainings_to_an_encoders_tick(env, mirror, parts):
    pairs = play(env, mirror, 3, 25)
    off = np.abs(pairs[:, 0] - pairs[:, 1])
    assert off[:, parts["joint_positions"]].max() <= TICK_RAD
    assert off[:, parts["target_lag"]].max() <= TICK_RAD
    assert off[:, parts["object_pose"]].max() < 1e-3
    assert off[:, parts["end_effector_pose"]].max() < 0.02
    truth = pairs[1:, 0, parts["joint_velocities"]]
    differences = np.diff(pairs[:, 1, parts["joint_positions"]], axis=0) * TASK.control_hz
    assert np.abs(truth).max() > 0.5
    off = off[1:, parts["joint_velocities"]]
    assert np.linalg.norm(off) < 0.5 * np.linalg.norm(differences - truth)


def test_an_arms_quantities_are_trainings_those_named_by_lerobot_to_a_tick(env, mirror):
    play(env, mirror, 3, 25)
    mirror.follow(read(env), env.unwrapped.commanded)
    *_, info = env.step(np.zeros(6, np.float32))
    mirror.follow(read(env), env.unwrapped.commanded)
    assert mirror.names == [*env.metadata[QUANTITIES]]
    off = dict(zip(mirror.names, np.abs(mirror.quantities() - info[QUANTITIES]), strict=True))
    assert all(off[f"{joint}.pos"] < 360 / 4095 for joint in JOINTS) and off["tip.x"] + off["tip.z"] < 0.003


def test_ahead_of_a_curve_it_gives_what_training_observes_at_its_end(env, mirror, parts):
    play(env, mirror, 4, 10)
    mirror.follow(read(env), env.unwrapped.commanded)
    actions = np.linspace(0, 0.4, 3)[:, None] * np.ones(6)
    last, ahead = env.unwrapped.commanded, []
    for action in actions:
        ahead.append(last := mirror.targets.next(last, action))
    expected = mirror.state(np.array(ahead))
    np.testing.assert_array_equal(mirror.state(np.array(ahead)), expected)  # looking ahead changes nothing
    for action in actions:
        observation, *_ = env.step(action.astype(np.float32))
    off = np.abs(observation[STATE_KEY] - expected)
    assert off[parts["joint_positions"]].max() < 2 * TICK_RAD
    assert off[parts["target_lag"]].max() < 2 * TICK_RAD


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_wrong_expectation_is_corrected_by_the_readings(mirror, parts, last):
    """An arm that turns its first joint evenly, whatever it is sent: its velocity is found, to a tenth.

    The last reading comes so many control steps after the one before.
    """
    mirror.lay_out(0)
    joints, rate = mirror.start.copy(), 0.6
    for steps in [1] * 14 + [last]:
        joints[0] += steps * rate / TASK.control_hz
        mirror.follow(joints, mirror.start, steps=steps)
    assert mirror.state(NOW)[parts["joint_velocities"]][0] == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(("error", "correction"), [(0.0, 0.0), (0.006, CORRECTION * 0.006), (0.02, None)])
def test_a_small_error_corrects_the_predicted_velocity_and_a_large_one_discards_it(mirror, parts, error, correction):
    mirror.lay_out(0)
    mirror.follow(mirror.start, mirror.start)
    sent = mirror.start + 0.05
    ahead = mirror.state(sent[None])
    joints = ahead[parts["joint_positions"]] + error
    mirror.follow(joints, sent)
    expected = (joints - mirror.start) * TASK.control_hz
    if correction is not None:
        expected = ahead[parts["joint_velocities"]] + correction * TASK.control_hz
    np.testing.assert_allclose(mirror.state(NOW)[parts["joint_velocities"]], expected, atol=1e-4)


def test_the_object_is_where_it_is_aimed_and_touching_it_there_is_success(mirror, parts):
    mirror.lay_out(0)
    with pytest.raises(ValueError, match="not been read"):
        mirror.state(NOW)
    mirror.follow(mirror.start, mirror.start)
    hand = mirror.state(NOW)[parts["end_effector_pose"]][:3]
    for away, success in ((0.2, False), (0.0, True)):
        mirror.aim(hand + np.array([away, 0, 0]))
        assert mirror.success() == success
    assert np.abs(mirror.state(NOW)[parts["object_offset"]]).max() < 5e-3
