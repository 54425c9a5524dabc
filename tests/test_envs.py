"""The laws of an environment: what a seed fixes, an action does and an end means; what is refused, what is a fault."""

import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import suite
from envs.faults import EnvironmentFault
from envs.make import episode_limit, make
from envs.settings import TaskConfig
from worldmodel.errors import UserError

STATE_KEY = "observation.state"
NAN = float("nan")


class Line(gymnasium.Env):
    """Adds up its actions; gives whatever `observation(step)` and `reward(step)` say. It never ends."""

    def __init__(self, observed=None, acts=None, observation=None, reward=None):
        self.observation_space = observed or spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = acts or spaces.Box(-1, 1, (1,), np.float32)
        self.observation, self.reward = observation or (lambda step: [step, 0.0]), reward or (lambda step: 1.0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.given = []
        return np.array(self.observation(0)), {}

    def step(self, action):
        self.given.append(action)
        step = len(self.given)
        return np.array(self.observation(step)), self.reward(step), False, False, {}


@pytest.fixture
def line():
    """Registers a Line and makes it a task: line(action_repeat=..., **what Line takes)."""

    def of(action_repeat=1, max_control_steps=0, **what):
        gymnasium.registry.pop("semagram/Line-v0", None)
        gymnasium.register("semagram/Line-v0", lambda: Line(**what))
        return make(TaskConfig("gym", "semagram/Line-v0", action_repeat, max_control_steps))

    yield of
    gymnasium.registry.pop("semagram/Line-v0", None)


def play(env, seed, count, actions=0):
    """Observations (count + 1, S) and rewards (count,) of an episode, cut at its end."""
    actions = np.random.default_rng(actions).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)
    observations, rewards = [env.reset(seed=seed)[0][STATE_KEY]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation[STATE_KEY])
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(observations), np.array(rewards)


def run(code, **environment):
    """Run Python elsewhere, where warnings are errors; what it prints, and its errors."""
    with_it = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL")} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=with_it, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


def test_episodes_without_a_seed_differ_between_environments():
    first, second = (make(TaskConfig("cartpole-swingup")).reset()[0][STATE_KEY] for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", suite.NAMES)
def test_every_task_of_the_suite_is_an_environment_of_ours(name):
    env = make(TaskConfig(name))
    assert list(env.observation_space) == [STATE_KEY]
    assert env.observation_space[STATE_KEY].dtype == np.float32
    assert env.action_space == spaces.Box(-1, 1, env.action_space.shape, np.float32)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    assert episode_limit(env) == (None if name.startswith("lqr") else 500)
    env.close()


def test_the_names_are_those_of_dm_control():
    with suite.importing():
        from dm_control.suite import ALL_TASKS
    assert suite.TASKS == ALL_TASKS
    assert len(suite.BY_NAME) == len(ALL_TASKS)
    assert suite.find("cup-catch") == ("ball_in_cup", "catch")


@pytest.mark.parametrize("repeat", [2, 3])
def test_a_repeated_action_gives_the_sum_of_the_rewards(repeat):
    once, often = (make(TaskConfig("walker-walk", action_repeat=n)) for n in (1, repeat))
    once.reset(seed=1)
    often.reset(seed=1)
    for action in np.linspace(-1, 1, 5 * 6, dtype=np.float32).reshape(5, 6):
        parts = [once.step(action) for _ in range(repeat)]
        observation, reward, *_ = often.step(action)
        assert reward == pytest.approx(sum(part[1] for part in parts), abs=1e-12)
        np.testing.assert_array_equal(observation[STATE_KEY], parts[-1][0][STATE_KEY])


@pytest.mark.parametrize(("repeat", "limit"), [(2, 500), (3, 334)])
def test_the_suites_time_limit_is_truncation(repeat, limit):
    env = make(TaskConfig("cartpole-balance", action_repeat=repeat))
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]
    assert episode_limit(env) == limit


def test_the_suites_discount_of_zero_is_termination():
    env = make(TaskConfig("lqr-lqr-2-1"))
    env.reset(seed=0)
    assert env.step(np.ones(1, np.float32))[2:4] == (False, False)
    with env.unwrapped.physics.reset_context():
        env.unwrapped.physics.data.qpos[:] = 0
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_a_fall_is_termination_and_ends_the_repetition():
    env = make(TaskConfig("gym", "InvertedPendulum-v5", action_repeat=200))
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(np.ones(1, np.float32))
    assert terminated
    assert not truncated
    assert 0 < reward < 200


@pytest.mark.parametrize(("most", "limit"), [(0, 100), (30, 30), (200, 100)])
def test_an_episode_is_cut_at_the_nearer_limit(most, limit):
    env = make(TaskConfig("gym", "Pendulum-v1", action_repeat=2, max_control_steps=most))
    assert episode_limit(env) == limit
    assert len(play(env, 0, 1000)[1]) == limit


def test_an_episode_may_have_no_end(line):
    env = line()
    assert episode_limit(env) is None
    assert len(play(env, 0, 1200)[1]) == 1200
    assert episode_limit(line(max_control_steps=7)) == 7


def test_a_decision_lasts_as_long_as_its_steps():
    for repeat in (1, 2):
        assert make(TaskConfig("walker-walk", action_repeat=repeat)).metadata["render_fps"] == pytest.approx(
            40 / repeat
        )


def test_actions_are_rescaled_to_the_environments_own_range(line):
    env = line(acts=spaces.Box(np.array([-2.0, 0.0]), np.array([6.0, 1.0]), dtype=np.float64))
    env.reset(seed=0)
    for action in ([-1, -1], [1, 1], [0, 0.5]):
        env.step(np.array(action, np.float32))
    np.testing.assert_allclose(env.unwrapped.given, [[-2, 0], [6, 1], [2, 0.75]], atol=1e-6)


def test_a_dict_of_observations_is_flattened_in_the_order_of_its_keys(line):
    observed = spaces.Dict({"z": spaces.Box(-9, 9, ()), "a": spaces.Box(-9, 9, (2,), np.float64)})
    gymnasium.register("semagram/Line-v0", lambda: Keyed(observed))
    env = make(TaskConfig("gym", "semagram/Line-v0"))
    np.testing.assert_array_equal(env.reset(seed=0)[0][STATE_KEY], np.float32([1, 2, 3]))
    with pytest.raises(EnvironmentFault, match=r"observation.state\[1\] \(a\[1\]\) is nan"):
        env.step(np.zeros(1, np.float32))


class Keyed(Line):
    """A Line that sees a Dict, of which a number breaks at the first step."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"z": np.float32(3), "a": np.array([1.0, 2.0])}, {}

    def step(self, action):
        return {"z": np.float32(3), "a": np.array([1.0, NAN])}, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            {"observation": lambda step: [0, NAN if step == 2 else 1]},
            r"control step 2: observation.state\[1\] \(\[1\]\) is nan",
        ),
        (
            {"observation": lambda step: [np.inf if step == 1 else 0, 0]},
            r"control step 1: observation.state\[0\] .* is inf",
        ),
        (
            {"observation": lambda step: [1e300 if step == 1 else 0, 0]},
            r"control step 1: observation.state\[0\] .* is inf",
        ),
        ({"reward": lambda step: NAN if step == 2 else 1}, "control step 2: the reward is nan"),
        ({"observation": lambda step: [NAN, 0]}, "control step 0: observation.state"),
    ],
)
def test_what_is_not_finite_is_a_fault_that_keeps_the_state(line, what, message):
    env = line(**what)
    action = np.float32([0.5])
    with pytest.raises(EnvironmentFault, match=f"^semagram/Line-v0, {message}") as caught:
        env.reset(seed=0)
        for _ in range(3):
            env.step(action)
    for fault in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert "\n" not in str(fault)
        assert (fault.action is None) if "control step 0" in message else (fault.action == action)
        assert not (np.isfinite(fault.observation[STATE_KEY]).all() and np.isfinite(fault.reward))


def test_an_action_that_is_not_finite_is_the_callers_error(line):
    env = line()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="control step 1: the action is not finite"):
        env.step(np.float32([NAN]))
    assert not env.unwrapped.given


def test_physics_that_diverges_is_a_fault_and_a_reset_cures_it():
    env = make(TaskConfig("cheetah-run"))
    before = play(env, 3, 5)
    env.unwrapped.physics.data.qvel[0] = NAN
    with pytest.raises(EnvironmentFault, match="cheetah-run, control step 6: the physics diverged"):
        env.step(np.zeros(6, np.float32))
    for one, other in zip(before, play(env, 3, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            {"acts": spaces.Discrete(3)},
            r"its actions are Discrete\(3\); supported: a Box of one dimension with finite bounds",
        ),
        ({"acts": spaces.Box(-np.inf, np.inf, (1,))}, "finite bounds"),
        ({"acts": spaces.Box(0, 1, (2, 2))}, "one dimension"),
        ({"acts": spaces.Box(0, 0, (1,))}, "finite bounds"),
        ({"acts": spaces.Dict({"a": spaces.Box(0, 1, (1,))})}, "its actions are Dict"),
        ({"observed": spaces.Discrete(5)}, r"its observation is Discrete\(5\); supported: a Box of numbers"),
        ({"observed": spaces.Dict({"a": spaces.MultiBinary(5)})}, "its observation a is MultiBinary"),
        ({"observed": spaces.Box(0, 255, (8, 8, 3), np.uint8)}, r"observes pictures alone; senses=\[images.image\]"),
        ({"observed": spaces.Dict({"a": spaces.Box(0, 255, (3, 8, 8), np.uint8)})}, r"picture a is \(3, 8, 8\); supp"),
    ],
)
def test_spaces_that_are_not_supported_are_refused_in_a_line(line, what, message):
    with pytest.raises(ValueError, match=message) as caught:
        line(**what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Penduum-v1", "close to it: Pendulum-v1"),
        ("no_such_package:Thing-v0", "No module named 'no_such_package'"),
        ("not an id", "Malformed"),
        (":Pendulum-v1", "Empty module name"),
    ],
)
def test_an_unknown_id_is_one_line_with_what_is_close(name, message):
    with pytest.raises(UserError, match=f"^task.id={name}: .*{message}") as caught:
        make(TaskConfig("gym", name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "walkr-walk"},
            "^task.name=walkr-walk: no such task; close to it: walker-walk, .*python -m envs.suite",
        ),
        ({"name": ""}, "^task.name=: no such task"),
        ({"name": "gym"}, "^task.id=: "),
        ({"name": "walker-walk", "id": "Pendulum-v1"}, "^task.id=Pendulum-v1: only with task.name=gym"),
        ({"name": "walker-walk", "action_repeat": 0}, "^task.action_repeat=0: at least 1"),
        ({"name": "walker-walk", "max_control_steps": -1}, "^task.max_control_steps=-1: at least 0"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        TaskConfig(**settings)
    assert "\n" not in str(caught.value)


def test_the_action_repeat_follows_the_kind_of_task():
    assert TaskConfig("walker-walk").action_repeat == 2
    assert TaskConfig("gym", "Pendulum-v1").action_repeat == 1
    assert TaskConfig("walker-walk", action_repeat=4).action_repeat == 4


def test_settings_are_read_without_heavy_imports():
    heavy = "{'numpy', 'gymnasium', 'mujoco', 'dm_control', 'torch'}"
    assert run(f"import sys, envs.settings, envs.suite; print({heavy} & set(sys.modules))") == ("set()\n", "")


def test_making_a_task_prints_nothing_and_leaves_no_trace(tmp_path):
    """Not even without a screen, and without labmaze; nothing is loaded that draws."""
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
os.chdir({str(tmp_path)!r})
sys.modules['labmaze'] = None
from envs.make import make
from envs.settings import TaskConfig
for task in TaskConfig('quadruped-escape'), TaskConfig('gym', 'HalfCheetah-v5'), TaskConfig('walker-walk'):
    make(task).reset(seed=0)
drawing = {{'torch', 'OpenGL', 'mujoco.egl', 'envs.cameras'}} & set(sys.modules)
assert not drawing and 'MUJOCO_GL' not in os.environ and not os.listdir(), drawing
"""
    assert run(code) == ("", "")
