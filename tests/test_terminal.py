"""Lines redrawn in place: on a terminal, elsewhere, and where nobody reads any more."""

import errno
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from robot.views import Terminal


@pytest.mark.parametrize("columns", [1, 7, 80])
def test_only_the_last_drawing_is_shown_and_what_was_said(teletype, columns):
    with teletype.terminal(columns) as (stream, close):
        terminal = Terminal(stream)
        terminal.draw(["a" * 40, "b" * 40, "c"])
        terminal.draw(["d" * 40])
        terminal.say("said")
        terminal.draw(["e" * 40, "f"])
        terminal.say("below", keep=True)
        terminal.draw(["g", "h"])
        terminal.draw([])
        terminal.draw(["i"])
        written = close()
    said, below = (teletype.shown(word, columns) for word in ("said\n", "below\n"))
    assert teletype.shown(written, columns) == [*said, ("e" * 40)[:columns], "f", *below, "i"]


def test_in_a_low_terminal_what_is_below_its_bottom_is_not_drawn(teletype):
    with teletype.terminal(rows=4) as (stream, close):
        terminal = Terminal(stream)
        for drawing in ("ab", "cd"):
            terminal.draw([f"{drawing} {i}" for i in range(9)])
        written = close()
    assert teletype.shown(written) == ["cd 0", "cd 1", "cd 2"]  # the cursor has the fourth


def test_what_threads_say_at_once_all_stays(teletype):
    """One writes so slowly that others come between, if they can."""
    written = []

    class Slow(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            time.sleep(1e-4)
            written.append(text)

    terminal = Terminal(Slow())

    def work(name):
        for i in range(20):
            terminal.draw(["a drawing", "of two lines"])
            terminal.say(f"{name} {i}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, "abcd"))
    lines = teletype.shown("".join(written))
    assert sorted(lines) == sorted(f"{name} {i}" for name in "abcd" for i in range(20))


def test_elsewhere_everything_stays_as_it_was_written():
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.draw(["a" * 400])
    terminal.draw(["b", "c"])
    terminal.say("d")
    assert stream.getvalue() == "a" * 400 + "\nb\nc\nd\n"


def test_where_nobody_reads_nothing_is_raised():
    tried = []

    class Closed(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise OSError(errno.EIO, "Input/output error")

    terminal = Terminal(Closed())
    terminal.say("SIGHUP")
    terminal.draw(["1 more waiting"])
    assert tried == ["SIGHUP\n", "1 more waiting\n"]
