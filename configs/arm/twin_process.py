"""A hardware twin for one run: started, waited for, and stopped at the end, also where nobody is left to stop it."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

START_S = 120.0


class TwinProcess:
    """semagram-twin in a folder of its own; `port_file` says where LeRobot finds it, twin.json is beside it."""

    def __init__(self):
        """Start it. Raises OSError if it does not come up."""
        self._temporary = tempfile.TemporaryDirectory(prefix="semagram-twin-")
        self.port_file = Path(self._temporary.name) / "port"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "configs.arm.twin_process", f"port_file={self.port_file}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which lets the arm down before its twin goes
        )
        end = time.monotonic() + START_S
        try:
            while not self.port_file.exists():
                if self._process.poll() is not None or time.monotonic() > end:
                    raise OSError("robot=so101-twin: the twin does not start; `semagram-twin port_file=...` says why")
                time.sleep(0.05)
        except BaseException:  # a signal, too
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.stdin.close()
        self._process.wait()
        self._temporary.cleanup()


def main() -> None:
    """The process: a twin that ends when whoever started it does, as a kill -9 leaves it no time to say."""

    def outlive_nobody() -> None:
        sys.stdin.buffer.read()  # nothing is said; it ends with the other end
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    from configs.twin import main as twin

    twin()


if __name__ == "__main__":
    main()
