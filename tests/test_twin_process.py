"""A twin does not outlive who started it, however that ends, and survives what is done to its cable and joints."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from configs.arm.twin_process import TwinProcess
from robot.settings import port_of_twin
from sim.twin.control import TwinControl, control_of
from sim.twin.feetech import PING, encode

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


def test_it_starts_beside_packages_of_the_same_names_survives_a_wobbling_cable_and_goes_with_its_folder(hidden):
    twin, stop = TwinProcess(), threading.Event()  # which raises where it does not come up

    def talk():
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the port is not there just now
                port = os.open(twin.port_file.read_text().strip(), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                with contextlib.suppress(OSError):
                    while not stop.is_set():
                        os.write(port, encode(1, PING))
                os.close(port)

    host = threading.Thread(target=talk)
    host.start()
    with TwinControl(control_of(twin.port_file)) as control:
        for _ in range(50):
            control.ask("pull", cable="usb")
            control.ask("plug", cable="usb")
        stop.set()
        host.join()
        assert control.ask("state")["port"] == port_of_twin(twin.port_file)
    twin.stop()
    assert twin._process.returncode == 0 and not twin.port_file.parent.exists()


def test_a_port_file_whose_control_channel_would_have_too_long_a_path_is_taken_at_its_word(tmp_path):
    port_file = tmp_path / ("long" * 30)
    port_file.write_text("/dev/pts/9\n")
    assert port_of_twin(port_file) == "/dev/pts/9"
