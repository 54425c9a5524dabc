"""Settings for running a checkpoint on an arm, and for serving its planner. Commands import it to print help."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from robot.arm_options import REAL, SIM, TWIN, ArmConfig, unused
from worldmodel.errors import UserError
from worldmodel.strict import check

VIEWS = ("terminal", "rerun", "none")


@dataclass(frozen=True)
class RunConfig(ArmConfig):
    """The options of semagram-run."""

    usual_limits: ClassVar[str] = "trained"  # as fast as in training

    checkpoint: str = ""
    episodes: int = 10
    seconds: float = 0.0
    target: list[float] = field(default_factory=list)
    lead: int = 2
    seed: int = 100
    sentence: str = ""
    robot_cameras: dict = field(default_factory=dict)
    remote: str = ""
    viewer: str = "terminal"
    viewer_file: str = ""
    real_time: bool = False
    device: str = "cpu"
    threads: int = 1
    planner: bool = True

    def __post_init__(self):
        """Raise ValueError for a value out of range, or one that the robot cannot use."""
        if not self.checkpoint:
            raise UserError("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/so101-touch/<run>")
        if self.viewer not in VIEWS:
            raise UserError(f"viewer={self.viewer}: one of {', '.join(VIEWS)}")
        if self.viewer_file and self.viewer != "rerun":
            raise UserError(f"viewer_file={self.viewer_file}: it is for viewer=rerun")
        check("", self, "episodes threads lead", low=1)
        check("", self, "seconds", low=0, high=3600)
        check("", self, "seed", low=0, high=2**32 - 1)
        super().__post_init__()
        self._check_target()
        if self.robot_cameras and self.robot == SIM:
            raise UserError(f"robot_cameras=: not with robot={SIM}, which has those that the checkpoint looks through")
        if self.remote:
            planner_address(self.remote, "remote")
            unused(self, "device threads planner", "not with remote=; semagram-serve decides so where it is")

    def _check_target(self) -> None:
        if self.target and (len(self.target) != 3 or not all(math.isfinite(x) and abs(x) <= 1 for x in self.target)):
            raise UserError(f"target={self.target}: x, y and z in metres from the arm's base, e.g. [0.25,0.05,0.02]")
        if self.target and self.robot == SIM:
            raise UserError(f"target=: only with robot={REAL} or {TWIN}; the simulated scene has things of its own")


@dataclass(frozen=True)
class PlayConfig(ArmConfig):
    """The options of semagram-play."""

    sentence: str = ""
    control_hz: int = 30

    def __post_init__(self):
        """Raise ValueError for a missing sentence, a value out of range, or one that the robot cannot use."""
        if not self.sentence:
            raise UserError("sentence=: a JSON file, a list of tokens, e.g. sentence=docs/arm.json")
        check("", self, "control_hz", low=10, high=100)
        super().__post_init__()


@dataclass(frozen=True)
class ServeConfig:
    """The options of semagram-serve."""

    checkpoint: str = ""
    address: str = "~/.semagram/planner.sock"
    seed: int = 100
    device: str = "cpu"
    threads: int = 1
    planner: bool = True

    def __post_init__(self):
        """Raise ValueError for a missing value or one out of range."""
        if not self.checkpoint:
            raise UserError("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/so101-touch/<run>")
        planner_address(self.address, "address")
        check("", self, "threads", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)


def planner_address(text: str, key: str) -> str | int:
    """Return the address `text` of a planner: the path of a Unix socket, or the port in localhost:<port>.

    Raises UserError, naming the key, for another machine: the connection is neither encrypted nor authenticated.
    """
    host, colon, port = text.rpartition(":")
    if text and not colon:
        return str(Path(text).expanduser())
    if host not in ("localhost", "127.0.0.1") or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{key}={text}: a Unix socket or localhost:<port>; ssh -L brings one here from another machine")
    return int(port)
