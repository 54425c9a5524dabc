"""Serial ports of arms."""

from pathlib import Path

from sim.twin.control import listens
from sim.twin.settings import LONGEST_SOCKET, control_of
from worldmodel.mistakes import Mistake


def port_of_twin(port_file: Path) -> str:
    """Return the serial port of the twin that wrote this file. Raises ValueError if no twin serves it."""
    start = f"start `semagram-twin port_file={port_file}`"
    if not port_file.exists():
        raise Mistake(f"port_file={port_file}: no such file; {start} first")
    control = control_of(port_file)
    if len(str(control).encode()) <= LONGEST_SOCKET and control.exists() and not listens(control):
        # It was killed, and its port may belong to something else by now.
        raise Mistake(f"port_file={port_file}: its twin is gone; {start} again")
    return port_file.read_text().strip()
