"""The contract of an environment: what the tasks of every kind keep, whatever the agent observes of them."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.wrappers import PATIENCE, Masked
from worldmodel.senses import LANGUAGE_KEY, key

LIMIT = 9
WALKERS = {"name": "multi", "names": ("walker-stand", "walker-walk", "walker-run")}
SUITE = ("finger-turn-hard", "humanoid-walk", "lqr-lqr-6-2")
ARM = ("so101-look-at", "so101-stack-cube")
GYM = ("Pendulum-v1", "Hopper-v5")
SEEING = ("state", "images.main")
MAIN, SIDE = key("images.main"), key("images.side")
# task, senses, and from which control step senses are dropped
KINDS = [({"name": each}, ("state",), {}) for each in (*SUITE, *ARM)]
KINDS += [({"name": "gym", "id": each}, ("state",), {}) for each in GYM]
KINDS += [(WALKERS, ("state", "language"), {}), ({"name": "cartpole-swingup"}, SEEING, {})]
KINDS += [({"name": "so101-touch"}, ("images.wrist",), {}), ({"name": "quadruped-escape"}, SEEING, {"images.main": 4})]
KINDS += [(WALKERS, (*SEEING, "language"), {"state": 0, "language": 2})]


def named(kind):
    keys, senses, drop = kind
    return "-".join([keys.get("id", keys["name"]), *senses, *[f"without {sense}" for sense in drop]])


@pytest.fixture(scope="module", params=KINDS, ids=named)
def kind(request):
    """The settings of a task, its senses and what is dropped; skips what cannot be drawn here."""
    if any(sense.startswith("images") for sense in request.param[1]):
        request.getfixturevalue("drawing")
    return request.param


def made(kind, count=None):
    """An environment of this kind, or a vector of them in this process."""
    keys, senses, drop = kind
    task, senses = TaskConfig(**keys, max_control_steps=LIMIT), Senses(senses, 16)
    if count is None:
        return make(task, senses=senses, drop=drop)
    return make_vector(task, count, processes=False, senses=senses, drop=drop)


@pytest.fixture(scope="module")
def env(kind):
    """One that all tests of a kind use, whatever state the last one left it in."""
    env = made(kind)
    yield env
    env.close()
    env.close()  # which is allowed


def episode(env, seed, most=LIMIT, actions=0):
    """An episode's steps from the reset on, each (observation, reward, terminated, truncated), until its end."""
    draws = np.random.default_rng(actions).uniform(-1, 1, (most, *env.action_space.shape)).astype(np.float32)
    steps = [(env.reset(seed=seed)[0], 0.0, False, False)]
    for action in draws:
        steps.append(env.step(action)[:4])
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def same(one, other) -> bool:
    """Whether two episodes are the same to the bit."""
    pairs = list(zip(one, other, strict=False))
    observed = all(np.array_equal(a[0][key], b[0][key]) for a, b in pairs for key in a[0].keys() | b[0].keys())
    return len(one) == len(other) and observed and all(a[1:] == b[1:] for a, b in pairs)


def test_a_seed_and_actions_fix_an_episode_whatever_came_before(kind, env):
    for seed in (105, 106):
        episode(env, seed, 5, actions=seed)
    first, fresh = episode(env, 5), made(kind)
    assert same(first, episode(fresh, 5))
    assert not same(first, episode(fresh, 6))
    fresh.close()


def test_every_observation_is_in_its_space_and_an_action_is_in_minus_one_to_one(kind, env):
    assert env.action_space == spaces.Box(-1, 1, env.action_space.shape, np.float32)
    assert {name for name in env.observation_space if name.startswith("observation.")} == set(map(key, kind[1]))
    for observation, reward, *ends in episode(env, 3):
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward) and all(type(end) in (bool, np.bool_) for end in ends)


def test_a_mask_is_of_a_sense_that_is_there_and_what_is_dropped_is_blank(kind, env):
    _, senses, drop = kind
    masked = {sense for sense in senses if sense.startswith("images.") or sense in drop}
    for number, (observation, *_) in enumerate(episode(env, 3)):
        assert {name for name in observation if name.startswith("mask.")} == {f"mask.{sense}" for sense in masked}
        for sense in masked:
            present, value = observation[f"mask.{sense}"], observation[key(sense)]
            assert present.shape == (1,) and present.dtype == np.bool_
            assert bool(present[0]) == (number < drop.get(sense, LIMIT + 1))
            assert bool(present[0]) == (bool(value.strip()) if isinstance(value, str) else bool(np.any(value)))


def test_the_time_limit_is_truncation_and_an_episode_ends_once(env):
    assert env.metadata["episode_limit"] == LIMIT
    *before, (_, _, terminated, truncated) = episode(env, 3, LIMIT + 5)
    assert not any(step[2] or step[3] for step in before)
    assert terminated or (truncated and len(before) == LIMIT)


def test_an_action_that_is_not_finite_is_refused_and_nothing_moves(env):
    env.reset(seed=3)
    action = np.zeros(env.action_space.shape, np.float32)
    expected = env.step(action)[0]
    env.reset(seed=3)
    with pytest.raises(ValueError, match="control step 1: the action is not finite"):
        env.step(action + np.float32(np.nan))
    state = key("state")
    if state in expected:
        np.testing.assert_array_equal(env.step(action)[0][state], expected[state])


def test_in_a_vector_each_is_what_it_is_alone_and_only_those_marked_begin_anew(kind, env):
    vector = made(kind, 2)
    actions = np.zeros((2, *env.action_space.shape), np.float32)
    observations, _ = vector.reset(seed=[7, 3])
    expected, _ = env.reset(seed=7)

    def shown(key):
        return observations[key][0] if key == LANGUAGE_KEY else np.asarray(observations[key])[0]

    for step in range(3):
        assert all(np.array_equal(shown(key), value) for key, value in expected.items())
        if step == 1:  # the other begins anew
            observations, _ = vector.reset(seed=[None, 5], options={"reset_mask": np.array([False, True])})
            assert all(np.array_equal(shown(key), value) for key, value in expected.items())
        observations, rewards, *_ = vector.step(actions)
        expected, reward, *_ = env.step(actions[0])
        assert rewards[0] == pytest.approx(reward, rel=1e-12)
    vector.close()


# A dark camera is a missing one.


class Room(gymnasium.Env):
    """Its two cameras show a light whose brightness the action is, of 255, and `noise`."""

    observation_space = spaces.Dict({camera: spaces.Box(0, 255, (4, 4, 3), np.uint8) for camera in (MAIN, SIDE)})
    action_space = spaces.Box(0, 255, (1,), np.float32)
    noise = 0

    def reset(self, *, seed=None, options=None):
        return self.see(200), {}

    def step(self, action):
        return self.see(int(action[0])), 0.0, False, False, {}

    def see(self, light):
        main, side = (np.full((4, 4, 3), self.noise, np.uint8) for _ in range(2))
        main[:2], side[:2] = main[:2] + light, 100
        return {MAIN: main, SIDE: side}


def masks(env, *lights):
    """The masks of an episode in which the light does that: after the reset, after each step; by camera."""
    seen = [env.reset(seed=0)[0], *(env.step(np.float32([light]))[0] for light in lights)]
    assert all(env.observation_space.contains(observation) for observation in seen)
    return {name: [bool(o[name][0]) for o in seen] for name in seen[0] if name.startswith("mask.")}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"images.nose": 3}, "^images.nose: no sense of this environment, which has images.main, images.side$"),
        ({"images.side": -1}, "^images.side: missing from control step -1 on; at least 0"),
    ],
)
def test_what_cannot_be_dropped_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        Masked(Room(), schedule)


def test_a_dark_camera_is_missing_while_it_is_dark_and_named_once():
    env = Masked(Room())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = masks(env, 90, *[0] * (PATIENCE - 1), 90, 0)
    assert seen["mask.images.main"] == [True, True, *[False] * (PATIENCE - 1), True, False]
    assert all(seen["mask.images.side"])
    assert not said  # never PATIENCE frames in a row
    with pytest.warns(UserWarning, match=f"^images.main: {PATIENCE} frames in a row of one colour") as said:
        for _ in range(2):
            masks(env, *[0] * 3 * PATIENCE)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)


def test_a_dropped_camera_stays_missing_whatever_it_shows_and_a_dark_one_too():
    env = Masked(Room(), {"images.main": 2})
    assert masks(env, 0, 200)["mask.images.main"] == [True, False, False]
    noisy = Masked(Room())
    noisy.unwrapped.noise = 50
    assert masks(noisy, 3, 60)["mask.images.main"] == [True, False, True]  # noise alone is no picture
