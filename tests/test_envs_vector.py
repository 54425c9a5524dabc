"""Laws of environments in processes: each is as it would be alone, faults come through, no process outlives us."""

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

from envs.make import make, make_vector
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost, Processes
from worldmodel.senses import STATE_KEY

TASK = TaskConfig("finger-spin", max_control_steps=4)
REST = np.zeros((2, 1), np.float32)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a process can't import a test


class Broken(gymnasium.Env):
    """Warns if it is pushed up, is at fault if it is pushed down, hangs if it is pushed a quarter up."""

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-1, 1, (1,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return {STATE_KEY: np.zeros(1, np.float32)}, {}

    def step(self, action):
        if action[0] == 0.25:
            time.sleep(60)
        if action[0] > 0:
            warnings.warn("the camera is dark", stacklevel=2)
        if action[0] < 0:
            raise EnvironmentFault("broken: the reward is inf", action, {STATE_KEY: action}, np.inf)
        return {STATE_KEY: action}, 0.0, False, False, {}


@pytest.fixture
def pair():
    """Two of them, in processes."""
    vector = Processes(Broken, 2)
    vector.reset(seed=[0, 1])
    yield vector
    vector.close()


@pytest.fixture(scope="module", params=[1, 2])
def vector(request):
    """One environment, in this process, and two, in others."""
    vector = make_vector(TASK, request.param)
    yield vector
    vector.close()


def test_each_environment_is_what_it_would_be_alone_and_a_mask_resets_those_that_ended(vector):
    count = vector.num_envs
    alone, seeds, last = [make(TASK) for _ in range(count)], [7, 3][:count], np.arange(count) == count - 1
    begun = [env.reset(seed=seed)[0][STATE_KEY] for env, seed in zip(alone, seeds, strict=True)]
    np.testing.assert_array_equal(vector.reset(seed=seeds)[0][STATE_KEY], begun)
    for number, action in enumerate(np.linspace(-1, 1, 5, dtype=np.float32)):
        if number == 1:
            observations = vector.reset(seed=[50] * count, options={"reset_mask": last})[0][STATE_KEY]
            np.testing.assert_array_equal(observations[-1], alone[-1].reset(seed=50)[0][STATE_KEY])
        if number == 4 and count > 1:
            vector.reset(seed=[0] * count, options={"reset_mask": ~last})
            alone[0].reset(seed=0)
        actions = np.full(vector.action_space.shape, action)
        observations, rewards, terminated, truncated, _ = vector.step(actions)
        steps = [env.step(actions[0]) for env in alone]
        np.testing.assert_array_equal(observations[STATE_KEY], [step[0][STATE_KEY] for step in steps])
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
        np.testing.assert_array_equal([terminated, truncated], np.transpose([step[2:4] for step in steps]))
        np.testing.assert_array_equal(truncated, (~last if number == 3 else last) & (number > 2))
    assert vector.metadata["episode_limit"] == alone[0].metadata["episode_limit"] == 4


def test_a_fault_comes_out_of_its_process_with_its_state(pair):
    with pytest.raises(EnvironmentFault, match="broken: the reward is inf") as caught:
        pair.step(REST - np.float32([[0], [0.5]]))
    assert caught.value.action == caught.value.observation[STATE_KEY] == np.float32([-0.5])
    assert caught.value.reward == np.inf


def test_processes_have_one_thread_heed_no_signal_to_all_and_warn_in_a_line(monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    vector = Processes(Broken, 2)
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ
    for process in vector.processes:
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # the parent's to handle
            os.kill(process.pid, number)
    vector.reset(seed=[0, 1])
    vector.step(np.float32([[1], [0]]))
    vector.close()
    assert capfd.readouterr().err == "semagram: the camera is dark\n"
    assert [process.exitcode for process in vector.processes] == [0, 0]


OURS = os.getpid()


def leaves():
    """Gymnasium makes one in our own process, too."""
    return Broken() if os.getpid() == OURS else os._exit(3)


def test_a_process_lost_while_it_starts_is_one_line_and_one_that_cannot_start_says_why(monkeypatch):
    line = r'of an environment \(\d+\) ended with code 3; in a script, begin below `if __name__ == "__main__":`$'
    with pytest.raises(EnvironmentLost, match=f"^the process {line}"):
        Processes(leaves, 2)

    def refuse(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refuse)
    with pytest.raises(BlockingIOError, match="temporarily unavailable"):
        Processes(Broken, 2)
    with pytest.raises(ValueError, match="envs=0: at least 1"):
        make_vector(TASK, 0)


def test_a_lost_process_is_one_line_and_the_others_end(pair):
    pair.processes[1].kill()
    for act in (lambda: pair.step(REST), lambda: pair.reset(seed=[0, 1])):
        with pytest.raises(EnvironmentLost, match=rf"\({pair.processes[1].pid}\) was killed by SIGKILL$"):
            act()
    pair.close()
    assert not any(process.is_alive() for process in pair.processes)


def test_a_process_that_hangs_is_told_then_given_up_and_all_end(pair, monkeypatch):
    monkeypatch.setattr("envs.vector.WARN_S", 0.5)
    monkeypatch.setattr("envs.vector.LOST_S", 1.0)
    pid = pair.processes[1].pid
    with (
        pytest.warns(UserWarning, match=rf"^an environment hangs: .* process {pid}; at 1 s it is given up$"),
        pytest.raises(EnvironmentLost, match=rf"^an environment hangs: no step for 1 s in process {pid}$"),
    ):
        pair.step(np.float32([[0], [0.25]]))
    pair.close()
    assert not any(process.is_alive() for process in pair.processes)


def alive(pid):
    """Whether a process runs; one that is dead but not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "without closing them"])
def test_the_processes_end_with_their_parent_however_it_ends(killed):
    code = """
import sys
from gymnasium.envs.classic_control import PendulumEnv
from envs.vector import Processes
vector = Processes(PendulumEnv, 2)
print(*[process.pid for process in vector.processes], flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(alive, children))
        if killed:
            parent.send_signal(signal.SIGKILL)
        _, errors = parent.communicate()  # ends when every process that could write has
    until = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, children))
    assert "Traceback" not in errors and (killed or not errors)
