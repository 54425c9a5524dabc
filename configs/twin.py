"""semagram-twin: a simulated SO-101 on a serial port of its own, for LeRobot's real driver."""

from configs.importing import importing

HELP = """semagram-twin: a simulated SO-101 on a serial port, for LeRobot's own driver. It runs until Ctrl-C.

  semagram-twin port_file=runs/twin/port

then, in another terminal:

  lerobot-teleoperate --robot.type=so101_follower --robot.port=$(cat runs/twin/port) \\
      --robot.id=twin --robot.calibration_dir=runs/twin ...

Keys, with their defaults:

  port_file=""             a file to write the port's name to; removed at the end, and while the USB cable is out
  calibration_file=""      a LeRobot calibration, read if it exists, written if not (default twin.json beside
                           port_file); the servos hold it from the start, so that LeRobot does not ask
  control_file=""          a Unix socket for requests, one JSON object a line (default <port_file>.control)
  scene=""                 a MuJoCo scene with the SO-101's joints and actuators by name (default the arm on a table)

What is to go wrong:

  faults.lost=0            the share of packets that vanish on the line
  faults.corrupted=0       the share of packets with a wrong byte
  faults.slow_ms=0         replies come so much later
  faults.dead=""           the joint whose servo dies, silent and limp, e.g. elbow_flex
  faults.overload=""       the joint whose servo protects itself: little torque, an error in each reply
  faults.held=""           the joint that is held by hand
  faults.cable=""          the cable that is pulled: usb, power, or a joint's lead, e.g. elbow_flex
  faults.after_s=0         so long after the first goal (0: from the start)
  faults.for_s=0           for so long (0: for good)
  faults.seed=0            which packets

docs/twin.md tells what each looks like. The last line of stdout is one JSON object: packets, replies, reply_ms_p50,
reply_ms_p99, faults.
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    run("twin", HELP, twin)


def twin(keys: dict, _folder) -> dict:
    """Serve the twin until stopped. Returns its statistics and `calibration_file`. Raises ValueError, OSError."""
    import gc
    import sys
    from pathlib import Path

    from configs.arm.priority import hurry
    from configs.strict import ConfigError, build
    from policies.storage.files import replace_file
    from sim.impossible import Impossible
    from sim.twin import calibration as calibrations
    from sim.twin.arm import TwinArm
    from sim.twin.control import discard
    from sim.twin.model import build as build_model
    from sim.twin.model import limits
    from sim.twin.settings import TwinConfig, control_of
    from sim.twin.twin import Twin

    config = build(TwinConfig, keys)
    port_file, calibration_file = Path(config.port_file), config.calibration_path
    try:
        model = build_model(config.scene)
        if calibration_file.exists():
            calibration = calibrations.read(calibration_file)
        else:
            calibration = calibrations.fitting(limits(model))
    except Impossible as error:
        raise ConfigError(str(error)) from error
    port_file.parent.mkdir(parents=True, exist_ok=True)
    discard(control_of(port_file))  # a stale channel here would make this twin, if its own is elsewhere, look dead
    with Twin(
        TwinArm(model, calibration), config.faults, config.control_path, lambda name: _announce(name, port_file)
    ) as server:
        if not calibration_file.exists():
            replace_file(calibration_file, calibrations.text(calibration).encode())
        gc.collect()
        gc.freeze()  # never collect what exists now, to avoid long pauses later
        print(f"calibration: {calibration_file}; scheduling: {hurry()}", file=sys.stderr)
        return {"calibration_file": str(calibration_file), **server.run()}


def _announce(name: str, port_file) -> None:
    """Write the port's name to `port_file` atomically, or remove the file if `name` is empty (no port)."""
    import sys

    from policies.storage.files import replace_file

    if not name:
        port_file.unlink(missing_ok=True)
        print("port: unplugged", file=sys.stderr)
        return
    replace_file(port_file, f"{name}\n".encode())
    print(f"port: {name} ({port_file})", file=sys.stderr)


if __name__ == "__main__":
    main()
