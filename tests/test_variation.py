"""Laws of domain randomisation: off is nothing, each key does its own and stays in its range, a seed repeats it."""

from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import TrainConfig
from envs.make import make
from envs.settings import TaskConfig
from sim.so101.scene import components
from sim.variation import PRESETS, RANGES, Nominal, Variation, draw
from worldmodel.senses import STATE_KEY
from worldmodel.strict import ConfigError, build

TOUCH = TaskConfig("so101-touch")
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (15, 6)).astype(np.float32)


def play(env, seed=3):
    """The states and rewards of an episode, as one array."""
    rows = [np.append(env.reset(seed=seed)[0][STATE_KEY], 0.0)]
    for action in ACTIONS:
        observation, reward, *_ = env.step(action)
        rows.append(np.append(observation[STATE_KEY], reward))
    return np.array(rows)


@pytest.fixture(scope="module")
def plain():
    return make(TOUCH)


@pytest.fixture(scope="module")
def expected(plain):
    return play(plain)


def test_a_draw_that_changes_nothing_changes_no_bit_of_the_model_and_a_strong_one_what_it_should():
    model = make(TOUCH).unwrapped.model
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    before = {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}
    assert "body_invweight0" in before
    nominal, drawn = Nominal(model, np.arange(6)), draw(PRESETS["strong"], model.nbody, np.random.default_rng(0))
    nominal.change(drawn)
    for found, want in (
        (model.body_mass, before["body_mass"] * drawn["masses"]),
        (model.body_inertia, before["body_inertia"] * drawn["masses"][:, None]),
        (model.light_diffuse, before["light_diffuse"] * drawn["light"]),
        (model.actuator_gainprm, before["actuator_gainprm"] * drawn["gains"][:, None]),
        (model.actuator_biasprm[:, 1:3], before["actuator_biasprm"][:, 1:3] * drawn["gains"][:, None]),
        (model.geom_friction[:, 0], before["geom_friction"][:, 0] * drawn["friction"]),
        (model.dof_frictionloss[:6], before["dof_frictionloss"][:6] * drawn["friction"]),
        (model.cam_pos, before["cam_pos"] + drawn["camera_mm"] / 1000),
        (model.qpos0[:6], before["qpos0"][:6] + np.radians(drawn["offset_deg"])),
    ):
        np.testing.assert_allclose(found, want)
    turned = 2 * np.arccos(np.abs(np.sum(model.cam_quat * before["cam_quat"], 1)).clip(max=1))
    np.testing.assert_allclose(turned, np.linalg.norm(np.radians(drawn["camera_deg"])), rtol=0.05)
    nominal.change(draw(Variation(), model.nbody, np.random.default_rng(0)))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(model, name), value, err_msg=name)


def test_off_is_nothing_a_seed_repeats_its_draw_whatever_was_before_and_without_one_each_draws_anew(expected):
    np.testing.assert_array_equal(play(make(TOUCH, variation=PRESETS["off"])), expected)
    env = make(TOUCH, variation=PRESETS["strong"])
    first = play(env)
    assert np.any(play(env, 4) != first)
    np.testing.assert_array_equal(play(env), first)
    one = env.unwrapped.draw
    env.reset()
    assert np.any(env.unwrapped.draw["gains"] != one["gains"])


@given(name=st.sampled_from(sorted(PRESETS)), seed=st.integers(0, 1000))
def test_a_draw_stays_in_its_ranges_and_one_range_does_not_change_the_others_draws(name, seed):
    variation = PRESETS[name]
    drawn, wide = (draw(v, 9, np.random.default_rng(seed)) for v in (variation, replace(variation, gains=(0.5, 2.0))))
    assert np.any(drawn["gains"] != wide["gains"])
    assert all(np.array_equal(drawn[key], wide[key]) for key in drawn if key != "gains")
    assert set(drawn) == {field.name for field in fields(Variation)} == set(RANGES)
    for key, values in drawn.items():
        low, high = getattr(variation, key)
        assert np.all((values >= low) & (values <= high)), key
        assert (low == high) == (name == "off")


def test_a_command_takes_effect_as_late_as_it_should():
    """At 20 Hz, 50 ms are one control step: the servos get then what they would have got one earlier."""
    task = TaskConfig("so101-touch", control_hz=20.0)
    commands = []
    for env in (make(task), make(task, variation=Variation(latency_ms=(50.0, 50.0)))):
        env.reset(seed=1)
        commands.append([env.unwrapped.data.ctrl.copy()])
        for action in ACTIONS:
            env.step(action)
            commands[-1].append(env.unwrapped.data.ctrl.copy())
    np.testing.assert_allclose(commands[1][1:], commands[0][:-1], atol=1e-6)
    assert np.any(commands[0][1] != commands[0][0])


def test_the_servos_acceleration_is_multiplied():
    rates = {factor: make(TOUCH, variation=Variation(acceleration=(factor, factor))).unwrapped for factor in (1.0, 0.5)}
    for env in rates.values():
        env.reset(seed=0)
    assert rates[0.5].rate == rates[1.0].rate / 2 == pytest.approx(39 / 2, rel=0.01)


def test_with_a_calibrations_error_the_arm_is_not_where_it_believes(plain):
    wrong = make(TOUCH, variation=Variation(offset_deg=(3.0, 3.0))).unwrapped
    hands, poses = [], []
    for env in (plain.unwrapped, wrong):
        env.reset(seed=2)
        env.data.qpos[:6] = [0.1, -0.5, 0.5, 0.3, 0.2, 0.4]
        mujoco.mj_forward(env.model, env.data)
        hands.append(env._get_tcp_pose())
        named = {name: env.state()[part] for name, part in components(env).items()}
        poses.append(named["end_effector_pose"])
        np.testing.assert_allclose(named["object_offset"] + poses[-1][:3], named["object_pose"][:3], atol=1e-6)
    assert np.linalg.norm(hands[0][:3] - hands[1][:3]) > 0.005
    np.testing.assert_allclose(poses[1], poses[0], atol=1e-6)  # both believe the same of the same encoders
    wrong.data.qpos[:6] += np.radians(3)
    mujoco.mj_forward(wrong.model, wrong.data)
    np.testing.assert_allclose(wrong._get_tcp_pose(), hands[0], atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gains": [0, 1]}, "randomise.gains=[0.0, 1.0]: [low, high] with 0.1 <= low <= high <= 10"),
        ({"latency_ms": [0]}, "randomise.latency_ms=[0.0]: [low, high] with 0 <= low <= high <= 200"),
        ({"gain": [1, 1]}, "randomise.gain: no such key; did you mean randomise.gains?"),
    ],
)
def test_a_wrong_range_is_one_line(keys, message):
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, {"task": {"name": "so101-touch"}, "randomise": keys})
    assert str(caught.value) == message


def test_only_the_arm_can_be_varied():
    with pytest.raises(ValueError, match=r"^randomise=: only for the SO-101's tasks, not walker-walk"):
        make(TaskConfig("walker-walk"), variation=PRESETS["mild"])
    make(TaskConfig("walker-walk"), variation=PRESETS["off"])
