"""SIGINT, SIGTERM and SIGHUP as one exception, which never comes in the middle of a talk with the robot."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; `number` says which."""

    def __init__(self, number: int):
        """Keep the signal's number."""
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """From `listen` to `restore` the first such signal raises Stopped in the main thread; later ones change nothing.

    A SIGHUP that is ignored, as under nohup, stays so; the others are heard in any case, for an arm moves. While `held`
    a signal waits: half a packet would leave the motors' bus unusable. Off the main thread, where Python lets no one
    listen, nothing changes.
    """

    def __init__(self):
        self._before: dict[int, object] = {}
        self._depth, self._number, self._raised = 0, None, False

    def listen(self) -> None:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._number, self._raised = None, False
            heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._heard) for number in heard}

    def restore(self) -> int | None:
        """Give them back. Returns the signal that was heard and is still held back, if any: it is raised no more."""
        for number, before in self._before.items():
            signal.signal(number, before)
        pending = None if self._raised else self._number
        self._before, self._number = {}, None
        return pending

    @contextmanager
    def held(self):
        """Keep a signal back until the block has ended, however it ends."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._raise()

    def _heard(self, number: int, _frame) -> None:
        if self._number is None:
            self._number = number
        self._raise()

    def _raise(self) -> None:
        if self._number is not None and self._depth == 0 and not self._raised:
            self._raised = True
            raise Stopped(self._number)


@contextmanager
def handled(handler: Callable, numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """These signals, but one that is ignored (SIGHUP under nohup), go to `handler`: SIGINT, SIGTERM and SIGHUP."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
