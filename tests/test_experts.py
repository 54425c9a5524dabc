"""Laws of the scripted experts: they do their tasks, from anywhere, within the gate's limits, as their seed says."""

import numpy as np
import pytest

from robot.safety.limits import Units, so101
from sim.so101 import scene as arm
from sim.so101.experts import AT_REST, EXPERTS, Unreachable, expert
from sim.so101.inverse_kinematics import ARM, Pose, Reach
from sim.so101.tasks import TASKS

HZ = 30.0


@pytest.fixture(scope="module")
def scenes():
    return {name: arm.build(name, HZ, end_on_success=False) for name in EXPERTS}


def episode(env, name, seed, other=None, steps=0):
    """The targets of an episode (T, 6), of which another drives the first steps, and whether it succeeded."""
    env.reset(seed=seed)
    law, rows, success = expert(env, name, np.random.default_rng(seed)), [], False
    for step in range(round(TASKS[name].seconds * HZ)):
        told = law.target()
        rows.append(told if step >= steps else other(rows[-1] if rows else law.last))
        success |= bool(env.step(rows[-1].astype(np.float32))[4]["success"])
    return np.array(rows), success, law


@pytest.mark.parametrize("name", EXPERTS)
def test_it_succeeds_and_says_when_it_is_done(scenes, name):
    for seed in range(5):
        rows, success, law = episode(scenes[name], name, seed)
        assert success and law.done()
        np.testing.assert_allclose(rows[-1], rows[-2], atol=AT_REST / HZ)


@pytest.mark.parametrize("name", EXPERTS)
def test_it_takes_over_from_anyone(scenes, name):
    rng, low, high = np.random.default_rng(0), *arm.limits(scenes[name])

    def anyhow(last):
        return np.clip(last + rng.uniform(-0.06, 0.06, 6), low, high)

    done = [episode(scenes[name], name, seed, anyhow, int(TASKS[name].seconds * 5))[1] for seed in range(5)]
    assert sum(done) >= 4


@pytest.mark.parametrize("name", EXPERTS)
def test_what_it_asks_for_keeps_the_gates_normal_limits(scenes, name):
    """Else what is recorded, which is what was sent, would lag behind it."""
    env, limits = scenes[name], so101("normal")
    units = Units(*arm.limits(env))
    for seed in range(3):
        env.reset(seed=seed)
        start = env.unwrapped.commanded.copy()
        values = units.from_rad(np.vstack([start, start, episode(env, name, seed)[0]]))
        rates = np.diff(values, axis=0) * HZ
        assert (np.abs(rates) <= limits.column("rate")).all()
        assert (np.abs(np.diff(rates, axis=0) * HZ) <= limits.column("acceleration")).all()


@pytest.mark.parametrize("name", EXPERTS)
def test_a_seed_says_all_and_no_two_are_alike(scenes, name):
    one, again, other = (episode(scenes[name], name, seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.05
    scenes[name].reset(seed=5)  # the same scene, another hand
    law = expert(scenes[name], name, np.random.default_rng(1))
    varied = []
    for _ in range(30):
        varied.append(law.target())
        scenes[name].step(varied[-1].astype(np.float32))
    assert np.abs(one[:30] - varied).max() > 0.01


def test_a_cube_that_is_pushed_away_is_taken_where_it_lies_then(scenes):
    env, name = scenes["so101-pick-lift"], "so101-pick-lift"
    for seed in (0, 2):
        env.reset(seed=seed)
        law, success = expert(env, name, np.random.default_rng(seed)), False
        cube = env.unwrapped.model.jnt_qposadr[-1]
        for step in range(180):
            if step == 35:  # on the way down
                env.unwrapped.data.qpos[cube : cube + 2] += [-0.03, 0.03]
            success |= bool(env.step(law.target().astype(np.float32))[4]["success"])
        assert success


def test_what_is_out_of_reach_is_refused(scenes):
    env = scenes["so101-pick-lift"]
    env.reset(seed=0)
    law, place = expert(env, "so101-pick-lift", np.random.default_rng(0)), env.unwrapped.model.jnt_qposadr[-1]
    env.unwrapped.data.qpos[place] += 0.3
    with pytest.raises(Unreachable, match="out of reach"):
        expert(env, "so101-pick-lift", np.random.default_rng(0))
    with pytest.raises(Unreachable, match="out of reach"):  # nor where it gets later
        law.target()
    env.unwrapped.data.qpos[place] -= 0.3
    assert np.isfinite(law.target()).all()


def test_reaching_is_the_inverse_of_where_the_hand_is(scenes):
    env = scenes["so101-touch"]
    low, high = arm.limits(env)
    reach, rng = Reach(env.unwrapped.model, low, high), np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(0.6 * low[:ARM], 0.6 * high[:ARM])
        place, axes = reach.hand(joints)
        found = reach.solve(Pose(place, axes[:, 2], axes[:, 0]), joints + rng.uniform(-0.3, 0.3, ARM))
        again, lies = reach.hand(found.joints)
        np.testing.assert_allclose(again, place, atol=5e-4)
        np.testing.assert_allclose(lies[:, 2], axes[:, 2], atol=0.02)


def test_only_what_is_below_the_table_is_sunk(scenes):
    env = scenes["so101-touch"]
    reach = Reach(env.unwrapped.model, *arm.limits(env))
    rest = np.zeros(ARM)
    assert reach.sunk(rest, 0.8) == 0
    low = reach.solve(Pose(np.array([0.25, 0.0, -0.03]), np.array([0.0, 0.0, -1.0])), rest).joints
    assert 0.02 < reach.sunk(low, 0.8) < 0.06
