"""The twin's start-up settings: its files, and the faults to inject."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from sim.errors import InvalidValue
from sim.joints import JOINTS

CABLES = ("usb", "power", *JOINTS)
LONGEST_SOCKET = 107  # bytes in the path of a Unix socket


@dataclass(frozen=True)
class FaultConfig:
    """Faults that begin `after_s` seconds after the first goal (0: at start) and last `for_s` seconds (0: for good).

    `lost`, `corrupted`: fraction of packets, in either direction, that vanish or have a byte changed. `slow_ms`: delay
    added to every reply. `dead`: a joint whose servo has failed. `overload`: a joint whose servo is in overload
    protection. `held`: a joint held by hand. `cable`: what is pulled out: `usb`, `power`, or a joint's lead (which also
    cuts off the joints behind it).
    """

    lost: float = 0.0
    corrupted: float = 0.0
    slow_ms: float = 0.0
    dead: str = ""
    overload: str = ""
    held: str = ""
    cable: str = ""
    after_s: float = 0.0
    for_s: float = 0.0
    seed: int = 0

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        for name, value in vars(self).items():
            known = CABLES if name == "cable" else JOINTS
            if isinstance(value, str) and value not in ("", *known):
                raise InvalidValue(f"faults.{name}={value}: one of {', '.join(known)}")
            if name in ("lost", "corrupted") and not 0 <= value <= 1:
                raise InvalidValue(f"faults.{name}={value}: a share, from 0 to 1")
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise InvalidValue(f"faults.{name}={value}: at least 0")


@dataclass(frozen=True)
class TwinConfig:
    """The settings of semagram-twin."""

    port_file: str = ""
    calibration_file: str = ""
    control_file: str = ""
    scene: str = ""
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        """Raise ValueError if there is no port file, or if the control channel's path is too long."""
        if not self.port_file:
            raise InvalidValue("port_file=: a file to write the port's name to, e.g. port_file=runs/twin/port")
        if len(str(self.control_path).encode()) > LONGEST_SOCKET:
            raise InvalidValue(f"control_file={self.control_path}: a path of at most {LONGEST_SOCKET} bytes")

    @property
    def control_path(self) -> Path:
        """Path of the control channel's socket."""
        return Path(self.control_file or control_of(Path(self.port_file)))

    @property
    def calibration_path(self) -> Path:
        """Path of the calibration file; by default `twin.json` beside the port file."""
        return Path(self.calibration_file or Path(self.port_file).with_name("twin.json"))


def control_of(port_file: Path) -> Path:
    """Return the default path of the control channel for a port file."""
    return Path(f"{port_file}.control")
