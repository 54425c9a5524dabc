"""The laws of an environment: what an action does, an end means and a wrong setting costs; what is a fault."""

import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import suite
from envs.make import make
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault
from worldmodel.errors import UserError
from worldmodel.senses import STATE_KEY

NAN = float("nan")
WALKERS = ("walker-stand", "walker-walk", "walker-run")


class Line(gymnasium.Env):
    """Adds up its actions; gives whatever `observation(step)` and `reward(step)` say. It never ends."""

    def __init__(self, observed=None, acts=None, observation=None, reward=None):
        self.observation_space = observed or spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = acts or spaces.Box(-1, 1, (1,), np.float32)
        self.observation, self.reward = observation or (lambda step: [step, 0.0]), reward or (lambda step: 1.0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.given = []
        return self.observation(0), {}

    def step(self, action):
        self.given.append(action)
        step = len(self.given)
        return self.observation(step), self.reward(step), False, False, {}


@pytest.fixture
def line():
    """Registers a Line and makes it a task: line(max_control_steps, **what Line takes)."""

    def of(max_control_steps=0, **what):
        gymnasium.registry.pop("semagram/Line-v0", None)
        gymnasium.register("semagram/Line-v0", lambda: Line(**what))
        return make(TaskConfig("gym", "semagram/Line-v0", 1, max_control_steps))

    yield of
    gymnasium.registry.pop("semagram/Line-v0", None)


def play(env, count):
    """How each step of an episode at rest ends, up to the episode's end: (terminated, truncated)."""
    env.reset(seed=0)
    ends = []
    while len(ends) < count and not any(ends[-1:] and ends[-1]):
        ends.append(env.step(np.zeros(env.action_space.shape, np.float32))[2:4])
    return ends


def test_the_names_of_the_suite_are_dm_controls_and_each_is_an_environment_of_ours():
    with suite.importing():
        from dm_control.suite import ALL_TASKS
    assert tuple(suite.BY_NAME.values()) == ALL_TASKS
    assert suite.find("cup-catch") == ("ball_in_cup", "catch")
    for name in suite.NAMES[::3]:
        env = make(TaskConfig(name))
        env.reset(seed=0)
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])
        assert env.metadata["episode_limit"] == (None if name.startswith("lqr") else 500)
        env.close()


@pytest.mark.parametrize("repeat", [2, 3])
def test_a_repeated_action_gives_the_sum_of_the_rewards_and_lasts_as_long_as_its_steps(repeat):
    once, often = (make(TaskConfig("walker-walk", action_repeat=n)) for n in (1, repeat))
    assert often.metadata["render_fps"] == pytest.approx(40 / repeat)
    once.reset(seed=1)
    often.reset(seed=1)
    for action in np.linspace(-1, 1, 5 * 6, dtype=np.float32).reshape(5, 6):
        parts = [once.step(action) for _ in range(repeat)]
        observation, reward, *_ = often.step(action)
        assert reward == pytest.approx(sum(part[1] for part in parts), abs=1e-12)
        np.testing.assert_array_equal(observation[STATE_KEY], parts[-1][0][STATE_KEY])


@pytest.mark.parametrize(
    ("name", "keys", "limit"),
    [
        ("cartpole-balance", {"action_repeat": 3}, 334),
        ("gym", {"id": "Pendulum-v1", "action_repeat": 3}, 67),
        ("gym", {"id": "Pendulum-v1", "action_repeat": 2, "max_control_steps": 30}, 30),
        ("gym", {"id": "Pendulum-v1", "action_repeat": 2, "max_control_steps": 200}, 100),
    ],
)
def test_the_nearer_time_limit_truncates(name, keys, limit):
    env = make(TaskConfig(name, **keys))
    assert env.metadata["episode_limit"] == limit
    assert play(env, 1000) == [(False, False)] * (limit - 1) + [(False, True)]


def test_an_episode_may_have_no_end(line):
    env = line()
    assert env.metadata["episode_limit"] is None and env.metadata["render_fps"] == 30  # as it says nothing of its rate
    assert len(play(env, 1200)) == 1200
    assert line(7).metadata["episode_limit"] == 7


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
    assert terminated and not truncated
    assert 0 < reward < 200


def test_actions_are_rescaled_to_the_environments_own_range(line):
    env = line(acts=spaces.Box(np.array([-2.0, 0.0]), np.array([6.0, 1.0]), dtype=np.float64))
    env.reset(seed=0)
    for action in ([-1, -1], [1, 1], [0, 0.5]):
        env.step(np.array(action, np.float32))
    np.testing.assert_allclose(env.unwrapped.given, [[-2, 0], [6, 1], [2, 0.75]], atol=1e-6)


def test_a_dict_of_observations_is_flattened_in_the_order_of_its_keys(line):
    observed = spaces.Dict({"z": spaces.Box(-9, 9, ()), "a": spaces.Box(-9, 9, (2,), np.float64)})
    env = line(observed=observed, observation=lambda step: {"z": np.float32(3), "a": np.array([1.0, [2, NAN][step]])})
    np.testing.assert_array_equal(env.reset(seed=0)[0][STATE_KEY], np.float32([1, 2, 3]))
    with pytest.raises(EnvironmentFault, match=r"observation.state\[1\] \(a\[1\]\) is nan"):
        env.step(np.zeros(1, np.float32))


def test_an_observation_that_changes_its_size_is_a_fault_that_says_so(line):
    env = line(observation=lambda step: [0, 1, 2][: 3 if step == 2 else 2])
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(EnvironmentFault, match=r"control step 2: it observes 3 numbers, not 2$"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("what", "step", "message"),
    [
        ({"observation": lambda step: [0, NAN if step == 2 else 1]}, 2, r"observation.state\[1\] \(\[1\]\) is nan"),
        ({"observation": lambda step: [1e300 if step == 1 else 0, 0]}, 1, r"observation.state\[0\] .* is inf"),
        ({"reward": lambda step: NAN if step == 2 else 1}, 2, "the reward is nan"),
        ({"observation": lambda step: [NAN, 0]}, 0, "observation.state"),
    ],
)
def test_what_is_not_finite_is_a_fault_that_keeps_the_state(line, what, step, message):
    env = line(**what)
    action = np.float32([0.5])
    with pytest.raises(EnvironmentFault, match=f"^semagram/Line-v0, control step {step}: {message}") as caught:
        env.reset(seed=0)
        for _ in range(3):
            env.step(action)
    for fault in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (fault.action is None) if step == 0 else (fault.action == action)
        assert not (np.isfinite(fault.observation[STATE_KEY]).all() and np.isfinite(fault.reward))


@pytest.mark.parametrize("name", ["cheetah-run", "so101-touch"])
def test_physics_that_diverges_is_a_fault_and_a_reset_cures_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a note of it where it runs
    env = make(TaskConfig(name))
    before = env.reset(seed=3)[0][STATE_KEY]
    getattr(env.unwrapped, "physics", env.unwrapped).data.qvel[0] = NAN
    with pytest.raises(EnvironmentFault, match=f"{name}, control step 1: (PhysicsError|Diverged): ") as caught:
        env.step(np.zeros(6, np.float32))
    assert not caught.value.action.any()
    np.testing.assert_array_equal(env.reset(seed=3)[0][STATE_KEY], before)
    env.step(np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            {"acts": spaces.Discrete(3)},
            r"its actions are Discrete\(3\), but plans are curves through continuous",
        ),
        ({"acts": spaces.MultiDiscrete([3, 2])}, r"MultiDiscrete\(\[3 2\]\), .* wrapper"),
        ({"acts": spaces.MultiBinary(3)}, r"its actions are MultiBinary\(3\); supported: a Box of one dimension with"),
        ({"acts": spaces.Box(-np.inf, np.inf, (1,))}, "finite bounds"),
        ({"acts": spaces.Box(0, 0, (1,))}, "finite bounds"),
        ({"observed": spaces.Discrete(5)}, r"its observation is Discrete\(5\); supported: a Box of numbers"),
        ({"observed": spaces.Dict({"a": spaces.MultiBinary(5)})}, "its observation a is MultiBinary"),
        ({"observed": spaces.Box(0, 255, (8, 8, 3), np.uint8)}, r"observes pictures alone; senses=\[images.image\]"),
    ],
)
def test_spaces_that_are_not_supported_are_refused_in_a_line(line, what, message):
    with pytest.raises(UserError, match=f"^semagram/Line-v0: .*{message}|^senses=state: .*{message}") as caught:
        line(**what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("Penduum-v1", "close to it: Pendulum-v1"), ("not an id", "Malformed")])
def test_an_unknown_id_is_one_line_with_what_is_close(name, message):
    with pytest.raises(UserError, match=f"^task.id={name}: .*{message}") as caught:
        make(TaskConfig("gym", name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("walkr-walk", {}, "task.name=walkr-walk: no such task; close to it: walker-walk, "),
        ("so101-tuch", {}, "task.name=so101-tuch: no such task; the SO-101's are so101-touch, "),
        ("gym", {}, "task.id=: "),
        ("walker-walk", {"id": "Pendulum-v1"}, "task.id=Pendulum-v1: only with task.name=gym"),
        ("walker-walk", {"action_repeat": 0}, "task.action_repeat=0: at least 1"),
        ("walker-walk", {"max_control_steps": -1}, "task.max_control_steps=-1: at least 0"),
        ("walker-walk", {"end_on_success": True}, "task.end_on_success=True: only for the SO-101's tasks"),
        ("walker-walk", {"names": WALKERS}, "task.names=[walker-stand,walker-walk,walker-run]: only with task=multi"),
        ("walker-walk", {"instruction": "  "}, "task.instruction: '  ' is without text"),
        ("so101-touch", {"action_repeat": 2}, "task.action_repeat=2: 1 for the SO-101's tasks"),
        ("so101-touch", {"control_hz": 4.9}, "task.control_hz=4.9: from 5 to 100"),
        ("so101-touch", {"control": "tied"}, "task.control=tied: one of delta, absolute"),
        ("so101-touch", {"state": "joint"}, "task.state=joint: one of full, joints"),
        ("multi", {"names": ("walker-walk",) * 2}, "task.names=[walker-walk,walker-walk]: two or more different"),
        ("multi", {"names": ("walker-walk", "gym")}, "task.names=gym: no such task"),
        ("multi", {"names": ("so101-touch", "walker-walk")}, "task.names=[so101-touch,walker-walk]: the SO-101's"),
        ("multi", {"names": WALKERS, "instruction": "go"}, "task.instruction=go: only for a single task"),
    ],
)
def test_settings_that_make_no_task_are_refused_in_one_line_that_names_the_key(name, keys, message):
    with pytest.raises(UserError) as caught:
        TaskConfig(name, **keys)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_making_a_task_prints_nothing_and_leaves_no_trace_and_settings_are_light(tmp_path):
    """Not even without a screen, and without labmaze; nothing is loaded that draws."""
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
os.chdir({str(tmp_path)!r})
import envs.settings, envs.suite
heavy = {{'numpy', 'gymnasium', 'mujoco', 'dm_control', 'torch'}} & set(sys.modules)
assert not heavy, heavy
sys.modules['labmaze'] = None
from envs.make import make
from envs.settings import TaskConfig
for task in TaskConfig('quadruped-escape'), TaskConfig('gym', 'HalfCheetah-v5'), TaskConfig('walker-walk'):
    make(task).reset(seed=0)
drawing = {{'torch', 'OpenGL', 'mujoco.egl', 'envs.cameras'}} & set(sys.modules)
assert not drawing and 'MUJOCO_GL' not in os.environ and not os.listdir(), drawing
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
