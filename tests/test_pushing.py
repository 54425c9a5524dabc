"""Laws of the pushing scene: problems begin at rest behind the box, servos hold, and a push moves the box ahead."""

import mujoco
import numpy as np
import pytest

from sim import small_arm
from sim.pushing import BOX_M, Push, model
from sim.small_arm import JOINTS, Pose, fingertip, reach


def begun(push):
    data = mujoco.MjData(model())
    mujoco.mj_setState(model(), data, push.state(), mujoco.mjtState.mjSTATE_FULLPHYSICS)
    return data


@pytest.mark.parametrize("seed", range(5))
def test_the_hand_begins_behind_the_box_and_the_goal_lies_beyond(seed):
    push = Push.draw(np.random.default_rng(seed))
    way = push.goal - push.box
    assert 0.05 <= np.linalg.norm(way) <= 0.1
    behind = push.box - fingertip(push.joints)[:2]
    assert behind @ way > 0.9 * np.linalg.norm(behind) * np.linalg.norm(way)
    assert np.linalg.norm(behind) > 2 * BOX_M


def test_held_it_stays(seed=0):
    push = Push.draw(np.random.default_rng(seed))
    data = begun(push)
    data.ctrl[:] = push.joints
    mujoco.mj_step(model(), data, 400)
    n = len(JOINTS)
    np.testing.assert_allclose(data.qpos[:n], push.joints, atol=0.02)
    np.testing.assert_allclose(data.qpos[n : n + 2], push.box, atol=1e-6)
    assert np.abs(data.qvel).max() < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_a_hand_led_to_the_goal_takes_the_box_along(seed):
    push = Push.draw(np.random.default_rng(seed))
    data, joints, n = begun(push), push.joints, len(JOINTS)
    start = fingertip(joints)
    for share in np.linspace(0, 1, 50):
        place = start + share * (np.append(push.goal, start[2]) - start)
        joints = reach(mujoco.MjData(small_arm.model()), joints, Pose(place, 1.2, 0.0), 20)
        data.ctrl[:] = joints
        mujoco.mj_step(model(), data, 10)
    way = push.goal - push.box
    assert (data.qpos[n : n + 2] - push.box) @ way > 0.6 * (way @ way)
