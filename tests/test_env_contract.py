"""The contract of an environment: what the tasks of every kind keep, whatever is seen and whatever wraps them."""

import functools

import numpy as np
import pytest
from gymnasium import spaces

from envs.make import episode_limit, make, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.wrappers import Dropping, watched
from sim.so101.tasks import TASKS
from worldmodel.senses import LANGUAGE_KEY, name

LIMIT = 9
WALKERS = {"name": "multi", "names": ("walker-stand", "walker-walk", "walker-run")}
SUITE = ("cartpole-swingup", "finger-turn-hard", "point-mass-hard", "reacher-easy", "cup-catch", "humanoid-walk")
SUITE += ("lqr-lqr-6-2", "manipulator-insert-peg", "quadruped-escape")
STATES = [{"name": each} for each in (*SUITE, *TASKS)]
STATES += [{"name": "gym", "id": each} for each in ("Pendulum-v1", "Hopper-v5", "InvertedPendulum-v5")]
DROPPED = functools.partial(Dropping, schedule={"images.main": 4})
KINDS = [(keys, ("state",), None) for keys in (*STATES, WALKERS)]
KINDS += [(WALKERS, ("state", "language"), None)]
KINDS += [({"name": each}, ("state", "images.main"), watched) for each in ("cartpole-swingup", "so101-touch")]
KINDS += [({"name": each}, ("state", "images.main"), DROPPED) for each in ("quadruped-escape",)]


def named(kind):
    keys, senses, wrap = kind
    what = getattr(wrap, "func", wrap)
    return "-".join([keys.get("id", keys["name"]), *senses, *([] if what is None else [what.__name__])])


@pytest.fixture(params=KINDS, ids=named)
def kind(request):
    """The settings of a task, its senses and its wrapper; skips what cannot be drawn here."""
    if any(sense.startswith("images") for sense in request.param[1]):
        request.getfixturevalue("drawing")
    return request.param


def made(kind, count=None):
    """An environment of this kind, or a vector of them in this process."""
    keys, senses, wrap = kind
    task, senses = TaskConfig(**keys, max_control_steps=LIMIT), Senses(senses, 16)
    if count is None:
        env = make(task, senses=senses)
        return env if wrap is None else wrap(env)
    return make_vector(task, count, processes=False, senses=senses, wrap=wrap)


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
    seen = all(np.array_equal(a[0][key], b[0][key]) for a, b in pairs for key in a[0].keys() | b[0].keys())
    return len(one) == len(other) and seen and all(a[1:] == b[1:] for a, b in pairs)


def test_a_seed_and_actions_fix_an_episode_whatever_came_before(kind):
    used, fresh = made(kind), made(kind)
    for seed in (105, 106):
        episode(used, seed, 5, actions=seed)
    first = episode(used, 5)
    assert same(first, episode(fresh, 5))
    assert not same(first, episode(fresh, 6))
    used.close()
    fresh.close()


def test_every_observation_is_in_its_space_and_an_action_is_in_minus_one_to_one(kind):
    env = made(kind)
    assert env.action_space == spaces.Box(-1, 1, env.action_space.shape, np.float32)
    for observation, reward, *ends in episode(env, 3):
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward) and all(type(end) in (bool, np.bool_) for end in ends)
    env.close()


def test_a_mask_is_of_a_sense_that_is_there_and_what_is_dropped_is_blank(kind):
    env = made(kind)
    senses = {f"observation.{each}" for each in kind[1]}
    for number, (observation, *_) in enumerate(episode(env, 3)):
        assert observation.keys() - senses <= {f"mask.{name(key)}" for key in senses}
        for key in senses & {f"observation.{mask[5:]}" for mask in observation if mask.startswith("mask.")}:
            there = observation[f"mask.{name(key)}"]
            assert there.shape == (1,) and there.dtype == np.bool_
            if kind[2] is DROPPED:
                assert bool(there[0]) == (number < 4) == bool(np.any(observation[key]))
    env.close()


def test_the_time_limit_is_truncation_and_no_termination(kind):
    env = made(kind)
    assert episode_limit(env) == LIMIT
    steps = episode(env, 3, LIMIT + 5)
    *before, (_, _, terminated, truncated) = steps
    assert not any(step[2] or step[3] for step in before)
    assert terminated or (truncated and len(before) == LIMIT)
    env.close()


def test_in_a_vector_each_is_what_it_is_alone_and_only_those_marked_begin_anew(kind):
    vector, alone = made(kind, 2), made(kind)
    actions = np.zeros((2, *alone.action_space.shape), np.float32)
    observations, _ = vector.reset(seed=[7, 3])
    expected, _ = alone.reset(seed=7)

    def shown(key):
        return observations[key][0] if key == LANGUAGE_KEY else np.asarray(observations[key])[0]

    for step in range(3):
        assert all(np.array_equal(shown(key), value) for key, value in expected.items())
        if step == 1:  # the other begins anew
            observations, _ = vector.reset(seed=[None, 5], options={"reset_mask": np.array([False, True])})
            assert all(np.array_equal(shown(key), value) for key, value in expected.items())
        observations, rewards, *_ = vector.step(actions)
        expected, reward, *_ = alone.step(actions[0])
        assert rewards[0] == pytest.approx(reward, rel=1e-12)
    vector.close()
    alone.close()
