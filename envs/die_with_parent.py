"""A process that ends with the one that started it, however that ends."""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def follow(parent: int, number: int) -> None:
    """Have this process get the signal `number` when its parent dies; where it has died already, end. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
