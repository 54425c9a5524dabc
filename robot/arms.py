"""LeRobot's devices from a command's options: an arm, driven and gated; its cameras; teleoperators."""

import importlib
import pkgutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import draccus
from lerobot import cameras, teleoperators
from lerobot.cameras import CameraConfig
from lerobot.robots import Robot
from lerobot.robots.so_follower import SO101FollowerConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from robot.safety.gate import Gate
from robot.safety.gated import GatedRobot
from robot.safety.limits import so101
from robot.settings import port_of_twin
from robot.so101 import SO101
from robot.ticks import Clock
from sim.so101.kinematics import Fingertip
from worldmodel.errors import UserError, in_one_line


def driven(port: str, name: str, calibration_dir: str = "", cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return LeRobot's SO-101 at a serial port, with its camera options. Raises ValueError without a calibration."""
    folder = Path(calibration_dir) if calibration_dir else None
    with _explained(f"id={name}"):  # a calibration file may be invalid
        found = configured(cameras or {})
        try:
            return SO101(SO101FollowerConfig(port=port, id=name, calibration_dir=folder, cameras=found))
        except ImportError as error:  # a camera type's dependency is not installed
            raise UserError(f"robot_cameras: {in_one_line(error)}") from error


def twin(port_file: Path, cameras: Mapping[str, dict] | None = None) -> Robot:
    """Return the same driver at the port of a running twin. Raises ValueError if none is running."""
    return driven(port_of_twin(port_file), "twin", str(port_file.parent), cameras)


def gated(robot: Robot, preset: str, stop_on_fault: bool = False, clock: Clock = time) -> GatedRobot:
    """Return the arm behind a gate with a preset's limits. Raises ValueError for a calibration without a range."""
    gate = Gate(so101(preset, robot.calibration or None), Fingertip())
    return GatedRobot(robot, gate, stop_on_fault, clock)


def connect(robot: GatedRobot) -> None:
    """Connect without prompting, or release the arm again. Raises OSError, ValueError for another calibration."""
    try:
        robot.connect(calibrate=False)
    except RuntimeError as error:
        raise ConnectionError(f"{robot}: {error}") from error


def decoded[T: draccus.ChoiceRegistry](base: type[T], package: ModuleType, keys: Mapping, where: str) -> T:
    """Decode `keys` to one of LeRobot's configurations, whose types are in `package`. Raises ValueError, one line."""
    if keys["type"] not in base.get_known_choices():
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.ispkg:
                importlib.import_module(module.name)
        register_third_party_plugins()
    known = base.get_known_choices()
    if keys["type"] not in known:
        raise UserError(f"{where}.type={keys['type']}: one of {', '.join(sorted(known))}")
    with _explained(where):
        return draccus.decode(base, dict(keys))


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what LeRobot raises for invalid settings into a UserError, one line that begins with `where`."""
    try:
        yield
    except UserError:
        raise
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        raise UserError(f"{where}: {in_one_line(error)}") from error


def configured(keys: Mapping[str, dict]) -> dict[str, CameraConfig]:
    """Return the configuration of each camera by name. Raises ValueError, in one line, for an invalid one."""
    for name, value in keys.items():
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            example = "its type and what that needs, e.g. {type:opencv,index_or_path:0}"
            raise UserError(f"robot_cameras.{name}={value}: {example}")
    return {name: decoded(CameraConfig, cameras, value, f"robot_cameras.{name}") for name, value in keys.items()}


def teleoperator(keys: dict) -> Teleoperator:
    """Return the teleoperator that `keys` describe; empty ones keep LeRobot's default. Raises ValueError."""
    chosen = {key: value for key, value in keys.items() if value not in ("", None)}
    with _explained("teleop"):
        return make_teleoperator_from_config(decoded(TeleoperatorConfig, teleoperators, chosen, "teleop"))
