"""What the mirror sees of an arm's readings is what training would have seen, now and some steps ahead."""

import numpy as np
import pytest

from envs.make import make
from envs.settings import TaskConfig
from envs.state_estimator import Mirror, scene_bodies
from robot.safety.limits import TICK_RAD, Units
from sim.so101 import scene as so101
from worldmodel.senses import STATE_KEY

TASK = TaskConfig("so101-touch")


@pytest.fixture(scope="module")
def mirror():
    mirror = Mirror(TASK)
    yield mirror
    mirror.close()


@pytest.fixture(scope="module")
def env():
    env = make(TASK)
    yield env
    env.close()


def read(env) -> np.ndarray:
    """The joints (6,) as encoders tell them."""
    units = Units(*so101.limits(env))
    return units.to_rad(units.read(so101.positions(env)))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def play(env, mirror, seed: int, steps: int, smooth: float = 0.8):
    """Training's episode with the mirror following; yields the states of both at each step."""
    rng, action = np.random.default_rng(seed), np.zeros(6)
    seen, _ = env.reset(seed=seed)
    mirror.lay_out(seed)
    sent = env.unwrapped.commanded
    for _ in range(steps):
        mirror.follow(read(env), sent)
        yield seen[STATE_KEY], mirror.state(np.zeros((0, 6)))
        action = smooth * action + (1 - smooth) * rng.uniform(-1, 1, 6)
        seen, *_ = env.step(action.astype(np.float32))
        sent = env.unwrapped.commanded.copy()


def places(env) -> dict[str, slice]:
    """Where each part lies in a state: parts in alphabetical order."""
    sizes = {name: part.stop - part.start for name, part in so101.components(env).items()} | {"target_lag": 6}
    found, at = {}, 0
    for name in sorted(sizes):
        found[name] = slice(at, at + sizes[name])
        at += sizes[name]
    return found


def test_a_state_from_readings_is_trainings_to_an_encoders_tick(env, mirror):
    parts = places(env)
    assert mirror.state_size == parts["target_lag"].stop
    pairs = np.array(list(play(env, mirror, 3, 25)))
    off = np.abs(pairs[:, 0] - pairs[:, 1])
    assert off[:, parts["joint_positions"]].max() <= TICK_RAD
    assert off[:, parts["target_lag"]].max() <= TICK_RAD
    assert off[:, parts["object_pose"]].max() < 1e-3
    assert off[:, parts["end_effector_pose"]].max() < 0.02
    truth = pairs[1:, 0, parts["joint_velocities"]]
    differences = np.diff(pairs[:, 1, parts["joint_positions"]], axis=0) * TASK.control_hz
    assert np.abs(truth).max() > 0.5
    assert rms(off[1:, parts["joint_velocities"]]) < 0.5 * rms(differences - truth)


def test_ahead_of_a_curve_it_sees_what_training_sees_at_its_end(env, mirror):
    parts = places(env)
    list(play(env, mirror, 4, 10))
    mirror.follow(read(env), env.unwrapped.commanded)
    actions = np.linspace(0, 0.4, 3)[:, None] * np.ones(6)
    last, ahead = env.unwrapped.commanded, []
    for action in actions:
        last = mirror.targets.next(last, action)
        ahead.append(last)
    expected = mirror.state(np.array(ahead))
    for action in actions:
        seen, *_ = env.step(action.astype(np.float32))
    off, moved = np.abs(seen[STATE_KEY] - expected), parts["joint_positions"]
    assert off[moved].max() < 2 * TICK_RAD
    assert off[parts["target_lag"]].max() < 2 * TICK_RAD
    before = read(env)
    assert np.array_equal(mirror.state(np.array(ahead)), expected)  # looking ahead changes nothing
    assert np.array_equal(read(env), before)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_wrong_expectation_is_corrected_by_the_readings(mirror, last):
    """An arm that turns its first joint evenly, whatever it is told: its velocity is found, to a tenth.

    The last reading comes so many control steps after the one before.
    """
    mirror.lay_out(0)
    joints, rate = mirror.start.copy(), 0.6
    for steps in [1] * 14 + [last]:
        joints[0] += steps * rate / TASK.control_hz
        mirror.follow(joints, mirror.start, steps=steps)
    state = mirror.state(np.zeros((0, 6)))
    assert state[places(mirror._env)["joint_velocities"]][0] == pytest.approx(rate, rel=0.1)


def test_the_object_is_where_it_is_aimed_and_touching_it_there_is_success(env, mirror):
    mirror.lay_out(0)
    parts = places(env)
    mirror.follow(mirror.start, mirror.start)
    pose = mirror.state(np.zeros((0, 6)))[parts["end_effector_pose"]]
    mirror.aim(pose[:3] + np.array([0.2, 0, 0]))
    mirror.follow(mirror.start, mirror.start)
    assert not mirror.success()
    mirror.aim(pose[:3])
    state = mirror.state(np.zeros((0, 6)))
    assert np.abs(state[parts["object_offset"]]).max() < 5e-3
    assert mirror.success()


def test_a_scene_that_tells_where_its_things_are_is_believed(env, mirror):
    env.reset(seed=7)
    mirror.lay_out(8)
    mirror.follow(read(env), env.unwrapped.commanded, scene_bodies(env))
    at = places(env)["object_pose"]
    assert np.allclose(mirror.state(np.zeros((0, 6)))[at], so101_pose(env), atol=1e-5)


def so101_pose(env) -> np.ndarray:
    return env.unwrapped._get_target_pose()
