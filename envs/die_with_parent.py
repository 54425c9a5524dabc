"""Make a child process end with its parent, however the parent ends."""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def follow(parent: int, number: int) -> None:
    """Have the kernel send this process signal `number` when `parent` dies; exit if it already has. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before prctl took effect
            os._exit(1)
