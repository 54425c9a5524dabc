"""Options shared by commands about an arm: which arm, where it is, its cameras. Imported to print help."""

from dataclasses import fields

from robot.safety.limits import PRESETS
from worldmodel.mistakes import Mistake

SIM, REAL, TWIN = "so101-sim", "so101", "so101-twin"
ROBOTS = (SIM, REAL, TWIN)
CAMERAS = {"main": "side", "front": "side", "side": "side", "wrist": "wrist", "overhead": "overhead"}
"""The simulated arm's cameras: name to viewpoint (`robot.config_sim_camera`)."""


def check_arm(config) -> None:
    """Raise ValueError for options of an arm that do not fit together, or for unknown `limits`.

    Checks `robot`, `port`, `id`, `calibration_dir` and `port_file`.
    """
    if config.limits not in ("", *PRESETS):
        raise Mistake(f"limits={config.limits}: one of {', '.join(PRESETS)}")
    if config.robot not in ROBOTS:
        raise Mistake(f"robot={config.robot}: one of {', '.join(ROBOTS)}")
    for key, robot in (("port", REAL), ("id", REAL), ("calibration_dir", REAL), ("port_file", TWIN)):
        if getattr(config, key) and config.robot != robot:
            raise Mistake(f"{key}={getattr(config, key)}: only with robot={robot}")
    if config.robot == REAL and not (config.port and config.id):
        raise Mistake("port= and id=: the arm's, as LeRobot knows it, e.g. port=/dev/ttyACM0 id=my_arm")


def preset(config, otherwise: str) -> str:
    """Return the gate's preset: the one asked for, else `careful` on a real arm and `otherwise` on other arms."""
    return config.limits or ("careful" if config.robot == REAL else otherwise)


def unused(config, names: str, why: str) -> None:
    """Raise ValueError if any of `names` is not at its default, since it would be ignored; `why`, in words."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in names.split():
        if (value := getattr(config, name)) != defaults[name]:
            raise Mistake(f"{name}={str(value).lower() if isinstance(value, bool) else value}: {why}")
