"""Several environments in a process each, which end with the process that started them."""

import os
import signal
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process, util
from multiprocessing.process import BaseProcess

import gymnasium
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from envs.die_with_parent import follow
from envs.faults import EnvironmentFault, EnvironmentLost
from worldmodel.mistakes import warning_line

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Started:
    """Makes an environment; in a process other than `parent`, first ties that process to it.

    Linux kills the process when its parent dies, however that happens; elsewhere it ends when it next hears
    nothing from its parent. A signal that asks to stop, which often goes to all processes at once, is the parent's to
    handle.
    """

    make: Callable[[], gymnasium.Env]
    parent: int

    def __call__(self) -> gymnasium.Env:
        """The environment."""
        if os.getpid() != self.parent:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            follow(self.parent, signal.SIGKILL)
        return self.make()


class Processes(gymnasium.vector.AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv, `count` times `make`, without automatic resets, one thread a process.

    The processes are spawned: forking one that runs threads (PyTorch's, a compiler's) can deadlock. As with
    everything spawned, a script that uses this needs `if __name__ == "__main__":`. `reset` and `step` raise
    EnvironmentLost where a process is no more.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int):
        """Start the processes; seconds, since each imports what it needs."""
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            super().__init__(
                [Started(make, os.getpid())] * count,
                context="spawn",
                shared_memory=False,  # from which Gymnasium reads a string once, when it starts
                worker=_work,
                autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
            )
        except BaseException as error:
            begun = [process for process in self.__dict__.get("processes", ()) if process.pid is not None]
            loss = _loss(begun) if isinstance(error, EOFError | ConnectionError) else None
            _kill(begun)
            if loss is not None:
                raise EnvironmentLost(loss) from error
            raise
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
        # At the program's end Python tells them to end by a SIGTERM, and waits.
        util.Finalize(self, _kill, (self.processes,), exitpriority=0)

    def reset(self, *, seed=None, options=None):
        """Gymnasium's."""
        return self._answer(super().reset, seed=seed, options=options)

    def step(self, actions):
        """Gymnasium's."""
        return self._answer(super().step, actions)

    def _answer(self, ask: Callable, *what, **more):
        try:
            return ask(*what, **more)
        except (EOFError, ConnectionError) as error:
            self._state = AsyncState.DEFAULT
            raise EnvironmentLost(_loss(self.processes)) from error

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Have the environments close; where that cannot be, as one is dead or at work, end their processes only."""
        if not terminate and self._state is AsyncState.DEFAULT and all(p.is_alive() for p in self.processes):
            with suppress(EOFError, ConnectionError):  # one has just died
                super().close_extras(timeout)
        _kill(self.processes)

    def _raise_if_errors(self, successes):
        """Raise a fault as it was raised in its process, state and all, without Gymnasium's warnings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                super()._raise_if_errors(successes)
            except EnvironmentFault as fault:
                original = fault.args[0]
                raise (original if isinstance(original, EnvironmentFault) else fault) from None


def _work(*given) -> None:
    """Gymnasium's worker; where its parent is no more, whose pipe closes first, it has nobody to tell.

    What it warns of is told as by its parent, a command.
    """
    warnings.formatwarning = warning_line
    try:
        _async_worker(*given)
    except (EOFError, ConnectionError):
        if parent_process().is_alive():
            raise


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _loss(processes: Sequence[BaseProcess]) -> str:
    """Which process has ended, and why."""
    gone = connection.wait([process.sentinel for process in processes], 1)
    for process in [process for process in processes if process.sentinel in gone]:
        process.join(1)  # its pipes are closed before it has ended
        if (code := process.exitcode) is not None:
            why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            return f"the process of an environment ({process.pid}) {why}"
    return "an environment's process does not answer"
