"""Several environments in a process each, which end with the process that started them."""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium

from envs.faults import EnvironmentFault

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Started:
    """Makes an environment; in a process other than `parent`, first ties that process to it.

    Linux kills the process when its parent dies, however that happens; elsewhere it ends when it next hears
    nothing from its parent. An interrupt from the keyboard is the parent's to handle.
    """

    make: Callable[[], gymnasium.Env]
    parent: int

    def __call__(self) -> gymnasium.Env:
        """The environment."""
        if os.getpid() != self.parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != self.parent:  # it died before the line above
                    os._exit(1)
        return self.make()


class Processes(gymnasium.vector.AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv, `count` times `make`, without automatic resets, one thread a process.

    The processes are spawned: forking one that runs threads (PyTorch's, a compiler's) can deadlock. As with
    everything spawned, a script that uses this needs `if __name__ == "__main__":`.
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
                autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
            )
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value

    def _raise_if_errors(self, successes):
        """Raise a fault as it was raised in its process, state and all, without Gymnasium's warnings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                super()._raise_if_errors(successes)
            except EnvironmentFault as fault:
                original = fault.args[0]
                raise (original if isinstance(original, EnvironmentFault) else fault) from None
