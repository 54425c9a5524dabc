"""An environment of this process that hangs: it is warned, and the first signal then ends the program at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from threading import Thread

from configs.reporting import SIGNALLED, say
from envs import vector
from envs.task_env import TaskEnv
from robot.safety.stops import SIGNALS

POLL_S = 0.5


def hanging() -> str:
    """Return which environment (task, control step) has been at work for more than WARN_S, or ""."""
    place, since = TaskEnv.running or ("", time.monotonic())
    return place if time.monotonic() - since > vector.WARN_S else ""


@contextmanager
def watched(go_on: str) -> Iterator[None]:
    """Watch the environments of this process inside the block, in the main thread; `go_on` says how to go on.

    From a thread: a signal's handler must wait for the main one, which may never come back from the environment.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before, thread = signal.set_wakeup_fd(writer), Thread(target=_watch, args=(reader, go_on), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _watch(reader: int, go_on: str) -> None:
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
            say(f"{place}: hangs, no answer for {vector.WARN_S:.0f} s; Ctrl-C or another signal ends the run at once")
        if number:
            say(f"stopped by {signal.Signals(number).name} in a step that hangs; {go_on}")
            os._exit(SIGNALLED + number)
