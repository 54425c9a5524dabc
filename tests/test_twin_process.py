"""A twin does not outlive who started it, however that one ends."""

import signal
import subprocess
import sys
import time

import pytest

from configs.arm.twin_process import TwinProcess

WAIT_S = 120.0
STARTS = """
import time
from configs.arm.twin_process import TwinProcess
twin = TwinProcess()
print(twin._process.pid, flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_killed_run_leaves_no_twin():
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True) as run:
        twin = int(run.stdout.readline())
        assert alive(twin)
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + WAIT_S
    while alive(twin):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_starts_beside_packages_of_the_same_names_and_once_stopped_is_gone_with_its_folder(hidden):
    twin = TwinProcess()  # which raises where it does not come up
    twin.stop()
    assert twin._process.returncode == 0 and not twin.port_file.parent.exists()
