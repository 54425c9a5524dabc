"""The hardware twin: served as a command, and for one run in a process that ends with it even if it is killed."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from configs.reporting import say
from policies.storage.folders import replace_file
from robot.ticks import hurry
from sim import InvalidValue
from sim.twin.arm import TwinArm, build, calibration_text, fitting, limits, read_calibration
from sim.twin.control import control_of, discard
from sim.twin.twin import Twin, TwinConfig
from worldmodel.strict import ConfigError

START_S = 120.0


def serve(config: TwinConfig, _folder: Path) -> dict:
    """Serve a twin at a serial port until a signal ends it. Returns what was done. Raises ConfigError, OSError."""
    port_file, calibration_file = Path(config.port_file), config.calibration_path

    def announce(name: str) -> None:  # atomically: no name, no port
        if name:
            replace_file(port_file, f"{name}\n".encode())
        else:
            port_file.unlink(missing_ok=True)
        say(f"port: {name} ({port_file})" if name else "port: unplugged")

    try:
        model = build(config.scene)
        known = calibration_file.exists()
        calibration = read_calibration(calibration_file) if known else fitting(limits(model))
    except InvalidValue as error:
        raise ConfigError(str(error)) from error
    port_file.parent.mkdir(parents=True, exist_ok=True)
    discard(control_of(port_file))  # a stale channel here would make this twin, if its own is elsewhere, look dead
    with Twin(TwinArm(model, calibration), config.faults, config.control_path, announce) as server:
        if not known:
            replace_file(calibration_file, calibration_text(calibration).encode())
        gc.collect()
        gc.freeze()  # never collect what exists now, to avoid long pauses later
        say(f"calibration: {calibration_file}; scheduling: {hurry()}")
        return {"calibration_file": str(calibration_file), **server.run()}


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
