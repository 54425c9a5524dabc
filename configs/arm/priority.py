"""Scheduling priority for a control loop, on request (`real_time=true`).

A driver waits 50 ms for a packet, a control loop 1 ms for its tick. But LeRobot's driver busy-polls the port, and with
few cores a prioritised busy loop keeps the kernel's own threads from delivering the port's bytes. So priority is never
raised unasked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

ORDINARY = "ordinary"


def hurry() -> str:
    """Raise this thread's priority, but not that of what it starts later. Returns what was granted, in words."""
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
    """Raise this thread's priority within the block if `wanted`; yields what was granted, in words.

    The flag that threads started by this one are ordinary (SCHED_RESET_ON_FORK) stays set afterwards: only a privileged
    user may clear it.
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
