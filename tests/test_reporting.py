"""Laws of how a command ends: a mistake and what may pass in a line, with codes of their own; a defect's traceback."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from configs.reporting import Ended
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost
from policies.storage.folders import FolderError
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError


def test_what_nobody_reads_to_its_end_ends_quietly():
    words = [sys.executable, "-m", "configs.commands", "train", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full disk")
def test_a_result_that_cannot_be_written_is_said():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-P", "-m", "configs.commands", "bench", "table=docs/results/dmc-100k.csv"]
        ended = subprocess.run(words, text=True, check=False, timeout=900, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.endswith("semagram: stdout: No space left on device\n")


@pytest.fixture
def ending(command, monkeypatch):
    """Runs a command whose work raises an error."""

    def run(error):
        def fails(*_):
            raise error

        monkeypatch.setattr("configs.bench.tabulate", fails)
        return command("bench", "table=a.csv")

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("steps=0"), 2, "steps=0"),
        (FolderError("it is damaged"), 2, "it is damaged"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "[Errno 2] No such file: 'a'"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, "[Errno 98] Address already in use"),
        (EnvironmentFault("the reward is nan"), 2, "the reward is nan"),
        (FloatingPointError("a weight is not finite"), 2, "a weight is not finite"),
        (OSError(errno.ENOSPC, "No space left", "a"), 1, "[Errno 28] No space left: 'a'"),
        (ConnectionError("nothing answers at the port"), 1, "nothing answers at the port"),
        (EnvironmentLost("it was killed"), 1, "it was killed"),
        (Ended("stopped: driver", 3), 3, "stopped: driver"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, "no room in memory: can't allocate memory: 9 bytes"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=str,
)
def test_a_mistake_and_what_may_pass_have_codes_of_their_own(ending, error, code, line):
    assert ending(error) == (code, "", f"semagram: {line}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_an_interrupted_library_raises_is_not_blamed(command, monkeypatch, ending, number):
    def fails(*_):
        with suppress(KeyboardInterrupt):  # as code in C may do, an import say
            signal.raise_signal(number)
        raise EnvironmentFault("cartpole-swingup, being made: SystemError")

    monkeypatch.setattr("configs.bench.tabulate", fails)
    assert command("bench", "table=a.csv") == (128 + number, "", f"semagram: stopped by {number.name}\n")
    assert ending(UserError("it"))[0] == 2  # another command, which nothing has stopped


@pytest.mark.parametrize("error", [ValueError("shapes (2,) and (3,)"), ZeroDivisionError(), KeyError(1)])
def test_a_defect_shows_its_traceback(ending, error):
    with pytest.raises(type(error)) as raised:
        ending(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [UserError("it"), OSError(errno.ENOSPC, "full"), FloatingPointError("nan")])
def test_who_asks_for_tracebacks_gets_that_of_a_mistake_too(ending, monkeypatch, error):
    monkeypatch.setenv("SEMAGRAM_TRACEBACK", "1")
    test_a_defect_shows_its_traceback(ending, error)
