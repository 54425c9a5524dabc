"""Laws of several environments together: each is as it would be alone, faults come through, no process outlives us."""

import os
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing.context import SpawnProcess
from pathlib import Path

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.faults import EnvironmentFault, EnvironmentLost, FiniteGuard
from envs.make import episode_limit, make, make_vector
from envs.settings import TaskConfig
from envs.vector import Processes

STATE_KEY = "observation.state"
TASK = TaskConfig("finger-spin", max_control_steps=4)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a process can't import a test


class Broken(gymnasium.Env):
    """Gives a reward of infinity as soon as it is pushed."""

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-1, 1, (1,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return {STATE_KEY: np.zeros(1, np.float32)}, {}

    def step(self, action):
        return {STATE_KEY: action}, np.inf if action[0] else 0.0, False, False, {}


def broken():
    return FiniteGuard(Broken(), "broken", ["x"], ())


class Uneasy(Broken):
    """Warns in every step."""

    def step(self, action):
        warnings.warn("the camera is dark", stacklevel=2)
        return super().step(action * 0)


@pytest.fixture(scope="module", params=[1, 2])
def vector(request):
    """One environment, in this process, and two, in others."""
    vector = make_vector(TASK, request.param)
    yield vector
    vector.close()


def test_each_environment_is_what_it_would_be_alone(vector):
    count = vector.num_envs
    alone = [make(TASK) for _ in range(count)]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, *vector.action_space.shape)).astype(np.float32)
    seeds = [7, 3][:count]
    observations, _ = vector.reset(seed=seeds)
    assert observations[STATE_KEY].dtype == np.float32
    np.testing.assert_array_equal(
        observations[STATE_KEY], [env.reset(seed=seed)[0][STATE_KEY] for env, seed in zip(alone, seeds, strict=True)]
    )
    for action in actions:
        observations, rewards, terminated, truncated, _ = vector.step(action)
        steps = [env.step(part) for env, part in zip(alone, action, strict=True)]
        np.testing.assert_array_equal(observations[STATE_KEY], [step[0][STATE_KEY] for step in steps])
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
        np.testing.assert_array_equal([terminated, truncated], np.transpose([step[2:4] for step in steps]))
    assert truncated.all()
    assert episode_limit(vector) == episode_limit(alone[0]) == 4


def test_what_an_environment_warns_of_is_one_line(capfd):
    vector = Processes(Uneasy, 2)
    vector.reset(seed=[0, 1])
    vector.step(np.ones((2, 1), np.float32))
    vector.close()
    assert capfd.readouterr().err == 2 * "semagram: the camera is dark\n"


def test_a_mask_resets_those_that_ended_and_no_other(vector):
    count = vector.num_envs
    last = np.arange(count) == count - 1
    first, _ = vector.reset(seed=list(range(count)))
    before = vector.step(np.ones(vector.action_space.shape, np.float32))[0][STATE_KEY]
    after = vector.reset(seed=[50] * count, options={"reset_mask": last})[0][STATE_KEY]
    np.testing.assert_array_equal(after[:-1], before[:-1])
    np.testing.assert_array_equal(after[-1], make(TASK).reset(seed=50)[0][STATE_KEY])
    assert not np.array_equal(after[-1], first[STATE_KEY][-1])
    ends = [vector.step(np.zeros(vector.action_space.shape, np.float32))[3] for _ in range(3)]
    np.testing.assert_array_equal(ends[-1], ~last)  # the others have gone on with their episode, it has not
    vector.reset(seed=[0] * count)


def test_a_fault_comes_out_of_its_process_with_its_state():
    vector = Processes(broken, 2)
    vector.reset(seed=[0, 1])
    vector.step(np.zeros((2, 1), np.float32))
    with pytest.raises(EnvironmentFault, match="broken, control step 2: the reward is inf") as caught:
        vector.step(np.float32([[0], [0.5]]))
    assert caught.value.action == np.float32([0.5])
    assert caught.value.observation[STATE_KEY] == np.float32([0.5])
    assert caught.value.reward == np.inf
    vector.close()


def test_starting_processes_leaves_the_environment_variables(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    vector = Processes(broken, 2)
    threads = [len(list(Path(f"/proc/{process.pid}/task").iterdir())) for process in vector.processes]
    vector.close()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert threads == [1, 1]


def test_no_environments_are_refused():
    with pytest.raises(ValueError, match="envs=0: at least 1"):
        make_vector(TASK, 0)


def alive(pid):
    """Whether a process runs; one that is dead but not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_all_processes_at_once_is_the_parents_to_handle(number):
    vector = Processes(broken, 2)
    for process in vector.processes:
        os.kill(process.pid, number)
    vector.reset(seed=[0, 1])
    vector.step(np.zeros((2, 1), np.float32))
    vector.close()
    assert [process.exitcode for process in vector.processes] == [0, 0]


OURS = os.getpid()


def leaves():
    """Gymnasium makes one in our own process, too."""
    return broken() if os.getpid() == OURS else os._exit(3)


def test_a_process_lost_while_it_starts_is_one_line_too():
    with pytest.raises(EnvironmentLost, match=r"^the process of an environment \(\d+\) ended with code 3$"):
        Processes(leaves, 2)


def test_a_process_that_cannot_be_started_says_why(monkeypatch):
    def refuse(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refuse)
    with pytest.raises(BlockingIOError, match="temporarily unavailable"):
        Processes(broken, 2)


def test_a_lost_process_is_one_line_and_the_others_end():
    vector = Processes(broken, 2)
    vector.reset(seed=[0, 1])
    vector.processes[1].kill()
    for act in (lambda: vector.step(np.zeros((2, 1), np.float32)), lambda: vector.reset(seed=[0, 1])):
        with pytest.raises(EnvironmentLost, match=rf"\({vector.processes[1].pid}\) was killed by SIGKILL$"):
            act()
    vector.close()
    assert not any(process.is_alive() for process in vector.processes)


def test_a_program_that_does_not_close_them_ends():
    code = """
from envs.make import make_vector
from envs.settings import TaskConfig
vector = make_vector(TaskConfig("cartpole-swingup"), 2)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_processes_die_with_a_parent_that_is_killed():
    code = """
import time
from envs.make import make_vector
from envs.settings import TaskConfig
vector = make_vector(TaskConfig("cartpole-swingup"), 2)
print(*[process.pid for process in vector.processes], flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(alive(pid) for pid in children)
        parent.send_signal(signal.SIGKILL)
        errors = parent.stderr.read()  # ends when every process that could write has
    until = time.monotonic() + 10
    while any(alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)
    assert "Traceback" not in errors
