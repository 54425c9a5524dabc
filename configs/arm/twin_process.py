"""The hardware twin: served as a command, and for one run in a process that ends with it."""

import gc
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.arguments import quoted
from configs.reporting import say
from configs.sweep import started
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


@contextmanager
def served() -> Iterator[Path]:
    """Yield the port file of a twin in a process that ends with this one. Raises OSError if not up in START_S."""
    with tempfile.TemporaryDirectory(prefix="semagram-twin-") as folder:
        port_file, null = Path(folder) / "port", subprocess.DEVNULL
        with started("twin", [f"port_file={quoted(port_file)}"], stdout=null, stderr=null) as process:
            try:
                end = time.monotonic() + START_S
                while not port_file.exists():
                    if process.poll() is not None or time.monotonic() > end:
                        why = "`semagram-twin port_file=...` says why"
                        raise OSError(f"robot=so101-twin: the twin does not start; {why}")
                    time.sleep(0.05)
                yield port_file
            finally:
                process.terminate()
