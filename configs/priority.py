"""Being served before others: a driver waits 50 ms for a packet, a control loop 1 ms for its tick."""

import os


def hurry() -> str:
    """Ask that this thread, not what it starts later, is served before others; what we got, in words."""
    if not hasattr(os, "sched_setscheduler"):
        return "ordinary"
    for name, ask in (
        ("real-time", lambda: os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))),
        ("raised", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)),
    ):
        try:
            ask()
        except PermissionError:
            continue
        return name
    return "ordinary (the user may not ask for more)"
