"""Checks that what a command's keys name exists, made before any slow import."""

from pathlib import Path

from robot.settings import REAL, port_of_twin
from worldmodel.errors import UserError


def check_there(config) -> None:
    """Raise UserError or ConnectionError if the checkpoint, twin or serial port that `config` names does not exist."""
    if (checkpoint := getattr(config, "checkpoint", "")) and not Path(checkpoint).is_dir():
        raise UserError(f"checkpoint={checkpoint}: no such folder")
    if port_file := getattr(config, "port_file", ""):
        port_of_twin(Path(port_file))
    port = Path(getattr(config, "port", "") if getattr(config, "robot", "") == REAL else "")
    if port.is_absolute() and not port.exists():  # on other systems ports are not files
        raise ConnectionError(
            f"port={port}: no such device; is the arm plugged in? lerobot-find-port says which port it has"
        )
