"""Options shared by commands about an arm: which arm, where it is, its cameras. Imported to print help."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from robot.safety.limits import PRESETS
from sim.twin.control import LONGEST_SOCKET, control_of, listens
from worldmodel.errors import UserError

SIM, REAL, TWIN = "so101-sim", "so101", "so101-twin"
ROBOTS = (SIM, REAL, TWIN)
CAMERAS = {"main": "side", "front": "side", "side": "side", "wrist": "wrist", "overhead": "overhead"}
"""The simulated arm's cameras: name to viewpoint (`robot.config_so101_sim`)."""


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """The options that every command about an arm has. `usual_limits`: the gate's, except on a real arm."""

    usual_limits: ClassVar[str] = "normal"

    robot: str = SIM
    limits: str = ""
    port: str = ""
    id: str = ""
    calibration_dir: str = ""
    port_file: str = ""

    def __post_init__(self):
        """Raise ValueError for options that do not fit together, or for unknown `limits`."""
        if self.limits not in ("", *PRESETS):
            raise UserError(f"limits={self.limits}: one of {', '.join(PRESETS)}")
        if self.robot not in ROBOTS:
            raise UserError(f"robot={self.robot}: one of {', '.join(ROBOTS)}")
        for key, robot in (("port", REAL), ("id", REAL), ("calibration_dir", REAL), ("port_file", TWIN)):
            if getattr(self, key) and self.robot != robot:
                raise UserError(f"{key}={getattr(self, key)}: only with robot={robot}")
        if self.robot == REAL and not (self.port and self.id):
            raise UserError("port= and id=: the arm's, as LeRobot knows it, e.g. port=/dev/ttyACM0 id=my_arm")

    @property
    def simulated(self) -> bool:
        """Whether the robot is the simulated one."""
        return self.robot == SIM

    @property
    def preset(self) -> str:
        """The preset of the gate's limits: the one asked for, else `careful` on a real arm."""
        return self.limits or ("careful" if self.robot == REAL else self.usual_limits)


def unused(config, names: str, why: str) -> None:
    """Raise ValueError if any of `names` is not at its default, since it would be ignored; `why`, in words."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in names.split():
        if (value := getattr(config, name)) != defaults[name]:
            raise UserError(f"{name}={str(value).lower() if isinstance(value, bool) else value}: {why}")


def port_of_twin(port_file: Path) -> str:
    """Return the serial port of the twin that wrote this file. Raises ValueError if no twin serves it."""
    start = f"start `semagram-twin port_file={port_file}`"
    if not port_file.exists():
        raise UserError(f"port_file={port_file}: no such file; {start} first")
    control = control_of(port_file)
    if len(str(control).encode()) <= LONGEST_SOCKET and control.exists() and not listens(control):
        # It was killed, and its port may belong to something else by now.
        raise UserError(f"port_file={port_file}: its twin is gone; {start} again")
    return port_file.read_text().strip()
