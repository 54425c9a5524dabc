"""Laws of the scripted experts: they do their tasks, from anywhere, within the gate's limits, as their seed says."""

import numpy as np
import pytest

from robot.safety.limits import so101
from sim.so101 import scene as arm
from sim.so101.experts import AT_REST, EXPERTS, Unreachable
from sim.so101.joints import Units
from sim.so101.kinematics import ARM, Pose, Reach
from sim.so101.tasks import TASKS

HZ = 30.0
LIFT = "so101-pick-lift"


@pytest.fixture(scope="module")
def scenes():
    return {name: arm.build(name, HZ, end_on_success=False) for name in EXPERTS}


def episode(env, name, seed, other=None, steps=0, hand=None):
    """The targets of an episode (T, 6), of which another drives the first steps, and whether it succeeded and ended."""
    env.reset(seed=seed)
    law, rows, success = EXPERTS[name](env, np.random.default_rng(seed if hand is None else hand)), [], False
    for step in range(round(TASKS[name].seconds * HZ)):
        target = law.target()
        rows.append(target if step >= steps else other(rows[-1] if rows else law.last))
        success |= bool(env.step(rows[-1].astype(np.float32))[4]["success"])
    return np.array(rows), success, law.done()


@pytest.mark.parametrize("name", EXPERTS)
def test_it_succeeds_within_the_gates_normal_limits_says_when_it_is_done_and_a_seed_says_all(scenes, name):
    """Beyond the limits, what is recorded, which is what was sent, would lag behind it."""
    env, limits, episodes = scenes[name], so101("normal"), []
    units = Units(*arm.limits(env))
    for seed in range(4):
        env.reset(seed=seed)
        start = env.commanded.copy()
        rows, success, done = episode(env, name, seed)
        assert success and done
        np.testing.assert_allclose(rows[-1], rows[-2], atol=AT_REST / HZ)
        rates = np.diff(units.from_rad(np.vstack([start, start, rows])), axis=0) * HZ
        assert (np.abs(rates) <= limits.column("rate")).all()
        assert (np.abs(np.diff(rates, axis=0) * HZ) <= limits.column("acceleration")).all()
        episodes.append(rows)
    np.testing.assert_array_equal(episode(env, name, 3)[0], episodes[3])
    for other in (episodes[2], episode(env, name, 3, hand=1)[0]):  # the latter in the same scene
        assert np.abs(episodes[3] - other).max() > 0.01


@pytest.mark.parametrize("name", EXPERTS)
def test_it_takes_over_from_anyone(scenes, name):
    rng, low, high = np.random.default_rng(0), *arm.limits(scenes[name])

    def anyhow(last):
        return np.clip(last + rng.uniform(-0.06, 0.06, 6), low, high)

    done = [episode(scenes[name], name, seed, anyhow, int(TASKS[name].seconds * 5))[1] for seed in range(3)]
    assert sum(done) >= 2


def test_a_cube_that_is_pushed_away_is_taken_where_it_lies_then(scenes):
    env = scenes[LIFT]
    env.reset(seed=0)
    law, success = EXPERTS[LIFT](env, np.random.default_rng(0)), False
    cube = env.model.jnt_qposadr[-1]
    for step in range(180):
        if step == 35:  # on the way down
            env.data.qpos[cube : cube + 2] += [-0.03, 0.03]
        success |= bool(env.step(law.target().astype(np.float32))[4]["success"])
    assert success


def test_what_is_out_of_reach_is_refused_until_it_comes_back(scenes):
    env = scenes[LIFT]
    env.reset(seed=0)
    law, place = EXPERTS[LIFT](env, np.random.default_rng(0)), env.model.jnt_qposadr[-1]
    env.data.qpos[place] += 0.3
    with pytest.raises(Unreachable, match="out of reach"):
        EXPERTS[LIFT](env, np.random.default_rng(0))
    with pytest.raises(Unreachable, match="out of reach"):
        law.target()
    env.data.qpos[place] -= 0.3
    assert np.isfinite(law.target()).all()


def test_reaching_is_the_inverse_of_where_the_hand_is(scenes):
    env = scenes["so101-touch"]
    low, high = arm.limits(env)
    reach, rng = Reach(env.model, low, high), np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(0.6 * low[:ARM], 0.6 * high[:ARM])
        place, axes = reach.hand(joints)
        found = reach.solve(Pose(place, axes[:, 2], axes[:, 0]), joints + rng.uniform(-0.3, 0.3, ARM))
        again, lies = reach.hand(found.joints)
        np.testing.assert_allclose(again, place, atol=5e-4)
        np.testing.assert_allclose(lies[:, 2], axes[:, 2], atol=0.02)
        assert found.miss_m == pytest.approx(np.linalg.norm(again - place))
