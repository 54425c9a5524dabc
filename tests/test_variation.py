"""Laws of domain randomisation: off is nothing, each key does its own and stays in its range, a seed repeats it."""

from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import TrainConfig
from envs.make import make, make_vector
from envs.settings import TaskConfig
from sim.randomisation import Draw, Nominal
from sim.variation import BOUNDS, PRESETS, Variation
from worldmodel.strict import ConfigError, build

STATE_KEY = "observation.state"
TOUCH = TaskConfig("so101-touch")
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (15, 6)).astype(np.float32)
SEEN_BY_CAMERAS_ALONE = ("camera_mm", "camera_deg", "light")


def play(env, seed=3):
    """The states and rewards of an episode, as one array."""
    shown = [np.append(env.reset(seed=seed)[0][STATE_KEY], 0.0)]
    for action in ACTIONS:
        observation, reward, *_ = env.step(action)
        shown.append(np.append(observation[STATE_KEY], reward))
    return np.array(shown)


@pytest.fixture(scope="module")
def plain():
    return play(make(TOUCH))


def only(name):
    """A strong variation of one key."""
    return Variation(**{name: getattr(PRESETS["strong"], name)})


def neutral(bodies):
    return Draw.of(Variation(), bodies, np.random.default_rng(0))


def test_off_is_bit_equal_to_no_randomisation(plain):
    np.testing.assert_array_equal(play(make(TOUCH, variation=PRESETS["off"])), plain)


def test_a_draw_that_changes_nothing_changes_no_bit_of_the_model():
    env = make(TOUCH).unwrapped
    arrays = {name: getattr(env.model, name) for name in dir(env.model) if not name.startswith("_")}
    before = {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}
    assert "body_invweight0" in before
    nominal = Nominal(env.model, np.arange(6))
    nominal.change(Draw.of(PRESETS["strong"], env.model.nbody, np.random.default_rng(0)))
    changed = {name for name, value in before.items() if not np.array_equal(value, getattr(env.model, name))}
    assert {
        "actuator_gainprm",
        "geom_friction",
        "body_mass",
        "qpos0",
        "cam_pos",
        "cam_quat",
        "light_diffuse",
    } <= changed
    nominal.change(neutral(env.model.nbody))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(env.model, name), value, err_msg=name)


@pytest.mark.parametrize("name", [name for name in BOUNDS if name not in SEEN_BY_CAMERAS_ALONE])
def test_each_key_changes_what_the_arm_does(name, plain):
    assert np.abs(play(make(TOUCH, variation=only(name))) - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "arrays"),
    [("camera_mm", ["cam_xpos"]), ("camera_deg", ["cam_xmat"]), ("light", [])],
)
def test_what_cameras_see_varies_and_the_motion_does_not(name, arrays, plain):
    env, same = make(TOUCH, variation=only(name)), make(TOUCH)
    joints = slice(-13, -1)  # of a row of `play`: the keys are in alphabetical order; the lag and its joints are late
    np.testing.assert_array_equal(play(env)[:, joints], plain[:, joints])
    play(same)
    ours, theirs = env.unwrapped, same.unwrapped
    for array in arrays:
        assert np.abs(getattr(ours.data, array) - getattr(theirs.data, array)).max() > 1e-3
    assert np.array_equal(ours.model.light_diffuse, theirs.model.light_diffuse) == (name != "light")


def test_a_seed_repeats_an_episodes_draw_whatever_was_before():
    env = make(TOUCH, variation=PRESETS["strong"])
    first = play(env)
    assert np.any(play(env, 4) != first)
    np.testing.assert_array_equal(play(env), first)
    np.testing.assert_array_equal(play(make(TOUCH, variation=PRESETS["strong"])), first)


def test_episodes_without_a_seed_draw_anew():
    env = make(TOUCH, variation=PRESETS["mild"])
    env.reset(seed=0)
    one = env.unwrapped.draw
    env.reset()
    assert np.any(env.unwrapped.draw.gains != one.gains)


@given(name=st.sampled_from(sorted(PRESETS)), seed=st.integers(0, 1000))
def test_a_draw_stays_in_its_ranges(name, seed):
    variation = PRESETS[name]
    draw = Draw.of(variation, 9, np.random.default_rng(seed))
    told = {
        "gains": draw.gains,
        "friction": draw.friction,
        "masses": draw.masses,
        "latency_ms": draw.latency_s * 1e3,
        "offset_deg": np.degrees(draw.offset_rad),
        "camera_mm": draw.camera_m * 1e3,
        "camera_deg": np.degrees(draw.camera_rad),
        "light": draw.light,
    }
    assert set(told) == {field.name for field in fields(Variation)} == set(BOUNDS)
    for key, values in told.items():
        low, high = getattr(variation, key)
        assert np.all((np.array(values) >= low - 1e-9) & (np.array(values) <= high + 1e-9)), key


@given(seed=st.integers(0, 1000))
def test_one_range_does_not_change_what_is_drawn_for_the_others(seed):
    wide = replace(PRESETS["mild"], gains=(0.5, 2.0))
    one, other = (Draw.of(v, 9, np.random.default_rng(seed)) for v in (PRESETS["mild"], wide))
    assert np.any(one.gains != other.gains)
    np.testing.assert_array_equal(one.masses, other.masses)
    assert one.latency_s == other.latency_s


def test_a_command_takes_effect_as_late_as_it_should():
    """At 20 Hz, 50 ms are one decision: the servos are told then what they would have been told one earlier."""
    task = TaskConfig("so101-touch", control_hz=20.0)
    at_once, late = make(task), make(task, variation=Variation(latency_ms=(50.0, 50.0)))
    told = []
    for env in (at_once, late):
        env.reset(seed=1)
        told.append([env.unwrapped.data.ctrl.copy()])
        for action in ACTIONS:
            env.step(action)
            told[-1].append(env.unwrapped.data.ctrl.copy())
    np.testing.assert_allclose(told[1][1:], told[0][:-1], atol=1e-6)
    assert np.any(told[0][1] != told[0][0])


def test_with_a_calibrations_error_the_arm_is_not_where_it_believes():
    true, wrong = make(TOUCH), make(TOUCH, variation=Variation(offset_deg=(3.0, 3.0)))
    for env in (true, wrong):
        env.reset(seed=2)
        env.unwrapped.data.qpos[:6] = [0.1, -0.5, 0.5, 0.3, 0.2, 0.4]
    hands, poses = [], []
    for env in (true, wrong):
        base = env.unwrapped
        mujoco.mj_forward(base.model, base.data)
        hands.append(base._get_tcp_pose())
        poses.append(base._compute_obs_components()[12:19])
    assert np.linalg.norm(hands[0][:3] - hands[1][:3]) > 0.005
    np.testing.assert_allclose(poses[1], poses[0], atol=1e-6)  # both believe the same of the same encoders
    base = wrong.unwrapped
    base.data.qpos[:6] += np.radians(3)
    mujoco.mj_forward(base.model, base.data)
    np.testing.assert_allclose(base._get_tcp_pose(), hands[0], atol=1e-6)


def test_only_the_arm_can_be_varied():
    with pytest.raises(ValueError, match=r"^randomise=: only for the SO-101's tasks, not walker-walk"):
        make_vector(TaskConfig("walker-walk"), 1, variation=PRESETS["mild"])
    make(TaskConfig("walker-walk"), variation=PRESETS["off"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gains": [0, 1]}, "randomise.gains=[0.0, 1.0]: [low, high] with 0.1 <= low <= high <= 10"),
        ({"friction": [2, 1]}, "randomise.friction=[2.0, 1.0]: [low, high] with 0.1 <= low <= high <= 10"),
        ({"latency_ms": [0]}, "randomise.latency_ms=[0.0]: [low, high] with 0 <= low <= high <= 200"),
        ({"masses": 2}, "randomise.masses=2: a list, e.g. randomise.masses=[0.1,0.2]"),
        ({"light": [0.5, "x"]}, "randomise.light=x: a number"),
        ({"gain": [1, 1]}, "randomise.gain: no such key; did you mean randomise.gains?"),
    ],
)
def test_a_wrong_range_is_one_line(keys, message):
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, {"task": {"name": "so101-touch"}, "randomise": keys})
    assert str(caught.value) == message


@pytest.mark.parametrize("name", BOUNDS)
def test_every_key_has_a_range_in_every_preset_but_off(name):
    for preset in ("mild", "strong"):
        assert getattr(PRESETS[preset], name) != getattr(PRESETS["off"], name)
