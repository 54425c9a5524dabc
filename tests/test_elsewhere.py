"""Laws of recorded episodes whose thing is laid elsewhere."""

import math

import numpy as np
import pytest
import torch

from configs.runs.elsewhere import Elsewhere
from envs.arm import known, labels
from envs.settings import TaskConfig
from envs.state_estimator import StateEstimator
from sim.so101 import scene
from worldmodel.encoder import TURNS, seen_from

TASK = TaskConfig("so101-pick-lift")
NAMES = labels(known(scene.components(TASK.name), "full"))
HAND, THING, JOINTS = (
    [i for i, name in enumerate(NAMES) if name.startswith(part)]
    for part in ("end_effector_pose", "object_pose", "joint_positions[")
)
OFFSET, GRASP = NAMES.index("object_offset[0]"), NAMES.index("grasp_state[0]")
FOLDED, OVER, GRASPED = (
    np.array(joints)
    for joints in ([0, -1.57, 1.57, 0.66, 0, 0.8], [0.2, 0.1, -0.1, 1.3, 0.4, 0.8], [0.2, 0.45, -0.15, 1.1, 0.4, 0.8])
)


@pytest.fixture
def estimator():
    whole = StateEstimator(TASK)
    whole.lay_out(0)
    yield whole
    whole.close()


def _episode(estimator, pan: float, yaw: float, lift: float = 0):
    """Return states and joint targets of an arm that goes over a cube, down to it, grasps it, and up again."""
    ways = [(FOLDED, OVER, 40), (OVER, GRASPED, 20), (GRASPED, GRASPED, 10), (GRASPED, OVER, 20)]
    joints = np.concatenate([a + np.linspace(0, 1, n, endpoint=False)[:, None] * (b - a) for a, b, n in ways])
    joints[:, :2] *= [pan, 1 + lift]
    state = np.zeros((len(joints), len(NAMES)))
    state[:, JOINTS], state[:, HAND] = joints, [estimator.hand(each) for each in joints]
    state[:, THING] = state[65, HAND]
    state[70:, THING[:3]] = state[70:, HAND[:3]]
    state[:, THING[3:]] = math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)
    state[:, OFFSET : OFFSET + 3] = (state[:, THING] - state[:, HAND])[:, :3]
    state[65:, GRASP] = 1
    return state, joints[:-1].copy(), joints[1:].copy()


def test_the_hand_passes_a_thing_that_lies_elsewhere_as_it_did_and_the_arm_begins_where_it_did(estimator):
    episodes = [_episode(estimator, *each) for each in ((1, 0.3, 0), (-2, 0.8, 0.1), (3, -0.2, -0.1))]
    laid = Elsewhere.of(NAMES, estimator, 30.0, [state for state, *_ in episodes])
    apart = []
    for state, before, goals in episodes * 3:
        seen, last, there = laid.moved(state, before, goals, np.random.default_rng(len(apart)))
        near = laid.near(state)
        assert 40 < near < 60 and np.abs(seen - state)[near:, THING].max(1).min() > 0.01
        np.testing.assert_allclose(seen[0, JOINTS], state[0, JOINTS])
        np.testing.assert_allclose(last - before, (seen - state)[:-1, JOINTS])
        np.testing.assert_allclose(there - goals, (seen - state)[1:, JOINTS])
        np.testing.assert_allclose(seen[:, HAND], [estimator.hand(each) for each in seen[:, JOINTS]], atol=1e-9)
        np.testing.assert_allclose(seen[:, OFFSET : OFFSET + 3], (seen[:, THING] - seen[:, HAND])[:, :3], atol=1e-9)
        now, was = (
            seen_from(*(torch.from_numpy(each[near:, part]) for part in (THING, HAND))).numpy()
            for each in (seen, state)
        )
        assert np.abs(np.linalg.norm(now[:, :3], axis=1) - np.linalg.norm(was[:, :3], axis=1)).max() < 2e-3
        waves = 6 + TURNS.index(4), 6 + 2 * len(TURNS) + TURNS.index(4)
        assert np.abs(now - was)[:, waves].max() < 0.25  # five joints cannot keep to every orientation
        apart.append([abs(math.remainder(each, math.pi / 2)) for each in laid.lies(seen) - laid.lies(state)])
    assert (np.max(apart, 0) > [0.003, 0.2, 0.1]).all()


def test_a_thing_is_only_laid_where_no_other_lay_nearer_and_stays_where_it_is_never_grasped(estimator):
    episodes = [_episode(estimator, *each) for each in ((1, 0.0), (1, 0.3), (2, 0.9, 0.4), (-4, 0.9, -0.4))]
    laid = Elsewhere.of(NAMES, estimator, 30.0, [state for state, *_ in episodes])
    yaws = []
    for seed in range(12):
        seen = laid.moved(*episodes[0], np.random.default_rng(seed))[0]
        yaws.append(math.remainder((laid.lies(seen) - laid.lies(episodes[0][0]))[2], math.pi / 2))
    assert min(yaws) < -0.1 < 0.1 < max(yaws) <= 0.15
    state, before, goals = episodes[0]
    state[:, GRASP] = 0
    assert laid.moved(state, before, goals, np.random.default_rng(0)) == (state, before, goals)
    none = Elsewhere.of(NAMES[1:], estimator, 30.0, [state])
    assert none.moved(state, before, goals, np.random.default_rng(0))[0] is state
