"""A hardware twin for one run, in its own process, which ends with the run even if the run is killed."""

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
    """semagram-twin with its own temporary folder, which holds `port_file` (the serial port's name) and twin.json."""

    def __init__(self):
        """Start the process and wait for its port, START_S seconds at most. Raises OSError if it does not come up."""
        self._temporary = tempfile.TemporaryDirectory(prefix="semagram-twin-")
        self.port_file = Path(self._temporary.name) / "port"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "configs.arm.twin_process", f"port_file={self.port_file}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C only reaches the run, which first shuts down the arm
        )
        end = time.monotonic() + START_S
        try:
            while not self.port_file.exists():
                if self._process.poll() is not None or time.monotonic() > end:
                    raise OSError("robot=so101-twin: the twin does not start; `semagram-twin port_file=...` says why")
                time.sleep(0.05)
        except BaseException:  # including signals
            self.stop()
            raise

    def stop(self) -> None:
        """Terminate the process, wait for it, and remove its folder."""
        self._process.terminate()
        self._process.communicate()  # closes its stdin and waits
        self._temporary.cleanup()


def main() -> None:
    """Run a twin that ends when its parent does, even if that is killed with SIGKILL."""

    def outlive_nobody() -> None:
        os.read(0, 1)  # returns only when the parent's end of the pipe is closed (sys.stdin's lock would end in abort)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    from configs.commands import twin

    twin()


if __name__ == "__main__":
    main()
