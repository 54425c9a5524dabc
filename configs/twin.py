"""semagram-twin: a simulated SO-101 on a serial port of its own, for LeRobot's real driver."""

from configs.command import run


def main() -> None:
    """Run the command."""
    run("twin", twin)


def twin(keys: dict, _folder) -> dict:
    """Serve the twin until stopped. Returns its statistics and `calibration_file`. Raises ValueError, OSError."""
    import gc
    import sys
    from pathlib import Path

    from configs.arm.priority import hurry
    from configs.strict import ConfigError, build
    from policies.storage.folders import replace_file
    from sim import InvalidValue
    from sim.twin import calibration as calibrations
    from sim.twin.arm import TwinArm, limits
    from sim.twin.arm import build as build_model
    from sim.twin.control import control_of, discard
    from sim.twin.twin import Twin, TwinConfig

    config = build(TwinConfig, keys)
    port_file, calibration_file = Path(config.port_file), config.calibration_path
    try:
        model = build_model(config.scene)
        if calibration_file.exists():
            calibration = calibrations.read(calibration_file)
        else:
            calibration = calibrations.fitting(limits(model))
    except InvalidValue as error:
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

    from policies.storage.folders import replace_file

    if not name:
        port_file.unlink(missing_ok=True)
        print("port: unplugged", file=sys.stderr)
        return
    replace_file(port_file, f"{name}\n".encode())
    print(f"port: {name} ({port_file})", file=sys.stderr)


if __name__ == "__main__":
    main()
