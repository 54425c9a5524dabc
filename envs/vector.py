"""Environments in one process each, which end with the one that started them; and those that hang."""

import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, parent_process, util
from multiprocessing.process import BaseProcess
from select import select

import gymnasium
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from envs.task_env import EnvironmentFault, TaskEnv
from worldmodel.errors import MachineFault, warning_line

PR_SET_PDEATHSIG = 1
WARN_S, LOST_S = 60.0, 300.0
"""Seconds for which an environment may be at work on a step before a warning, and before it is given up."""
POLL_S = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class EnvironmentLost(MachineFault):
    """An environment's process exited, was killed or hangs; the rest of its vector is no longer usable."""


def follow(parent: int, number: int) -> None:
    """Have the kernel send this process signal `number` when `parent` dies; exit if it already has. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before prctl took effect
            os._exit(1)


class Processes(gymnasium.vector.AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv over `count` environments from `make`, without autoreset, one thread per process.

    Processes are spawned, since forking a process with running threads (PyTorch's, a compiler's) can deadlock; a script
    that uses this therefore needs `if __name__ == "__main__":`. `reset` and `step` raise EnvironmentLost if a process
    has died or has not answered for LOST_S.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int, task: str = "an environment"):
        """Start the processes, which takes seconds; `task`: what they play. Raises EnvironmentLost if one dies."""
        self._task = task
        before = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            super().__init__(
                [make] * count,
                context="spawn",
                shared_memory=False,  # with it, Gymnasium reads a string only once, at the start
                worker=_work,
                autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
            )
        except BaseException as error:
            begun = [process for process in self.__dict__.get("processes", ()) if process.pid is not None]
            loss = _loss(begun) if isinstance(error, EOFError | ConnectionError) else None
            _kill(begun)
            if loss is not None:
                raise EnvironmentLost(f'{loss}; in a script, begin below `if __name__ == "__main__":`') from error
            raise
        finally:
            for name in THREADS:
                del os.environ[name]
            os.environ.update(before)
        # At interpreter exit, Python would send SIGTERM, which they ignore, and wait for them.
        util.Finalize(self, _kill, (self.processes,), exitpriority=0)

    def reset(self, *, seed=None, options=None):
        """Reset the environments, as in Gymnasium. Raises EnvironmentLost if a process has died or hangs."""
        return self._answer(lambda: self.reset_async(seed, options), self.reset_wait)

    def step(self, actions):
        """Step the environments, as in Gymnasium. Raises EnvironmentLost if a process has died or hangs."""
        return self._answer(lambda: self.step_async(actions), self.step_wait)

    def _answer(self, ask: Callable[[], None], wait: Callable[[], tuple]) -> tuple:
        try:
            ask()
            if not self._poll_pipe_envs(WARN_S):
                warnings.warn(f"{self._hanging(WARN_S)}; at {LOST_S:.0f} s it is given up", stacklevel=3)
                if not self._poll_pipe_envs(LOST_S - WARN_S):
                    raise EnvironmentLost(self._hanging(LOST_S))  # and stay in this state, so that `close` only kills
            return wait()
        except (EOFError, ConnectionError) as error:
            self._state = AsyncState.DEFAULT
            raise EnvironmentLost(_loss(self.processes)) from error

    def _hanging(self, seconds: float) -> str:
        silent = [p.pid for p, pipe in zip(self.processes, self.parent_pipes, strict=True) if not pipe.poll(0)]
        return f"{self._task} hangs: no step for {seconds:.0f} s in process {', '.join(map(str, silent))}"

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments if all are alive and idle; then kill the processes in any case."""
        if not terminate and self._state is AsyncState.DEFAULT and all(p.is_alive() for p in self.processes):
            with suppress(EOFError, ConnectionError):  # one has just died
                super().close_extras(timeout)
        _kill(self.processes)

    def _raise_if_errors(self, successes):
        """Raise a fault as it was raised in its process, with its data and without Gymnasium's warnings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                super()._raise_if_errors(successes)
            except EnvironmentFault as fault:
                original = fault.args[0]
                raise (original if isinstance(original, EnvironmentFault) else fault) from None


def _work(*given) -> None:
    """Run Gymnasium's worker in a process that is tied to the one that started it; warnings are formatted as there.

    Linux kills it when its parent dies, however that happens; elsewhere it exits quietly at its next attempt to
    communicate. SIGINT, SIGTERM and SIGHUP, often sent to all processes at once, are left to the parent to handle.
    """
    parent = parent_process()
    assert parent is not None and parent.pid is not None
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    follow(parent.pid, signal.SIGKILL)
    warnings.formatwarning = warning_line
    try:
        _async_worker(*given)
    except (EOFError, ConnectionError):
        if parent.is_alive():
            raise


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _loss(processes: Sequence[BaseProcess]) -> str:
    """Describe which process ended and why."""
    gone = connection.wait([process.sentinel for process in processes], 1)
    for process in [process for process in processes if process.sentinel in gone]:
        process.join(1)  # its pipes are closed before it has ended
        if (code := process.exitcode) is not None:
            why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            return f"the process of an environment ({process.pid}) {why}"
    return "an environment's process does not answer"


def hanging() -> str:
    """Return which environment of this process (task, control step) has been at work for more than WARN_S, or ""."""
    place, since = TaskEnv.running or ("", time.monotonic())
    return place if time.monotonic() - since > WARN_S else ""


@contextmanager
def watched(say: Callable[[str], None], rest: str) -> Iterator[None]:
    """Inside the block, `say` if an environment of this process hangs; the first signal then ends the program at once.

    `rest`: what is to be said then. From a thread: a signal's handler must wait for the main one, which may never come
    back from the environment. Outside the main thread, which alone hears signals, nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    thread = threading.Thread(target=_watch, args=(reader, say, rest), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _watch(reader: int, say: Callable[[str], None], rest: str) -> None:
    number, warned = 0, None
    while True:
        if select([reader], [], [], POLL_S)[0]:
            if not (received := os.read(reader, 1)):
                return
            number = received[0] if received[0] in SIGNALS else number
        if not (place := hanging()):
            continue
        if warned != place:
            warned = place
            say(f"{place}: hangs, no answer for {WARN_S:.0f} s; Ctrl-C or another signal ends the program at once")
        if number:
            say(f"stopped by {signal.Signals(number).name} in a step that hangs; {rest}")
            os._exit(128 + number)
