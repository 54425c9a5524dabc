"""The demonstrations: joint targets a real arm could follow, which pick up and put down, the same for the same seed."""

import mujoco
import numpy as np
import pytest

from sim.demonstrations import CHANNELS, RATE_HZ, demonstrations, minimum_jerk
from sim.small_arm import JOINTS, Pose, fingertip, model, reach


@pytest.fixture(scope="module")
def episodes():
    return demonstrations(seed=3, count=4)


def test_an_episode_is_float32_joint_targets_within_the_joints_ranges(episodes):
    low, high = model().jnt_range.T
    for episode in episodes:
        assert episode.dtype == np.float32 and episode.shape[1] == len(CHANNELS)
        assert 3 * RATE_HZ < len(episode) < 8 * RATE_HZ
        tremor = 0.05
        assert (episode[:, :5] >= low - tremor).all() and (episode[:, :5] <= high + tremor).all()
        assert episode[:, 5].min() == 0 and episode[:, 5].max() == 1


def test_no_step_is_faster_than_a_servo(episodes):
    for episode in episodes:
        assert np.abs(np.diff(episode[:, :5], axis=0)).max() * RATE_HZ <= 6  # rad/s


def test_the_gripper_closes_low_and_opens_low(episodes):
    for episode in episodes:
        height = np.array([fingertip(joints)[2] for joints in episode[:, :5]])
        moving = np.abs(np.diff(episode[:, 5])) > 1e-4
        assert height[1:][moving].max() < 0.08 < height.max()


def test_the_seed_decides_and_more_episodes_begin_with_the_same(episodes):
    again = demonstrations(seed=3, count=2)
    assert all(np.array_equal(a, b) for a, b in zip(again, episodes, strict=False))
    assert not np.array_equal(demonstrations(seed=4, count=1)[0], episodes[0])


def test_no_episodes_is_refused():
    with pytest.raises(ValueError, match="count=0: at least 1"):
        demonstrations(seed=0, count=0)


def test_reach_brings_the_fingertip_to_the_pose():
    joints = np.array([0, -0.5, 0.5, 0.8, 0.0])
    pose = Pose(np.array([0.22, 0.05, 0.1]), 1.0, 0.4)
    found = reach(mujoco.MjData(model()), joints, pose, 60)
    assert fingertip(found) == pytest.approx(pose.place, abs=1e-4)
    assert [found[1] + found[2] + found[3], found[4]] == pytest.approx([pose.pitch, pose.roll], abs=1e-3)
    assert len(JOINTS) == len(found)


def test_minimum_jerk_rests_at_both_ends():
    s = np.linspace(0, 1, 1001)
    path = minimum_jerk(s)
    assert path[0] == 0 and path[-1] == pytest.approx(1) and (np.diff(path) >= 0).all()
    rate = np.gradient(path, s)
    assert abs(rate[0]) < 1e-4 and abs(rate[-1]) < 1e-4
