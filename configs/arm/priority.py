"""Being served before others, where it is asked for (`real_time=true`).

A driver waits 50 ms for a packet, a control loop 1 ms for its tick. But LeRobot's driver polls the port without a
pause, and before everything else it keeps the kernel's own threads from carrying the port's bytes, where cores are few:
so nobody is hurried unasked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

ORDINARY = "ordinary"


def hurry() -> str:
    """Ask that this thread, not what it starts later, is served before others; what we got, in words."""
    if not hasattr(os, "sched_setscheduler"):
        return ORDINARY
    for name, ask in (
        ("real-time", lambda: os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))),
        ("raised", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)),
    ):
        try:
            ask()
        except PermissionError:
            continue
        return name
    return f"{ORDINARY} (the user may not ask for more)"


@contextmanager
def hurried(wanted: bool) -> Iterator[str]:
    """Be served before others in this block, if that is wanted; what we got, in words.

    The mark that threads started meanwhile are ordinary stays: only a privileged user may take it away again.
    """
    if not wanted or not hasattr(os, "sched_setscheduler"):
        yield ORDINARY
        return
    scheduler, parameters, nice = os.sched_getscheduler(0), os.sched_getparam(0), os.getpriority(os.PRIO_PROCESS, 0)
    try:
        yield hurry()
    finally:
        kept = os.sched_getscheduler(0) & os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, scheduler | kept, parameters)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
