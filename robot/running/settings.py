"""Settings for running a checkpoint on an arm, and for serving its planner. Commands import it to print help."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from robot.arm_options import REAL, SIM, TWIN, ArmConfig, unused
from worldmodel.mistakes import Mistake
from worldmodel.ranges import check

VIEWS = ("terminal", "rerun", "none")
PORT = 7766


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
    secret: str = ""
    viewer: str = "terminal"
    viewer_file: str = ""
    real_time: bool = False
    device: str = "cpu"
    threads: int = 1
    planner: bool = True

    def __post_init__(self):
        """Raise ValueError for a value out of range, or one that the robot cannot use."""
        if not self.checkpoint:
            raise Mistake("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/so101-touch/<run>")
        if self.viewer not in VIEWS:
            raise Mistake(f"viewer={self.viewer}: one of {', '.join(VIEWS)}")
        if self.viewer_file and self.viewer != "rerun":
            raise Mistake(f"viewer_file={self.viewer_file}: it is for viewer=rerun")
        check("", self, "episodes threads lead", low=1)
        check("", self, "seconds", low=0, high=3600)
        check("", self, "seed", low=0, high=2**32 - 1)
        super().__post_init__()
        self._check_target()
        if self.robot_cameras and self.robot == SIM:
            raise Mistake(f"robot_cameras=: not with robot={SIM}, which has those that the checkpoint looks through")
        if self.remote:
            split_address(self.remote, "remote")
            unused(self, "device threads planner", "not with remote=; semagram-serve decides so where it is")
        if bool(self.remote) != bool(self.secret):
            raise Mistake("remote= and secret=: both, the planner's host:port and the file with the shared secret")

    def _check_target(self) -> None:
        if self.target and (len(self.target) != 3 or not all(math.isfinite(x) and abs(x) <= 1 for x in self.target)):
            raise Mistake(f"target={self.target}: x, y and z in metres from the arm's base, e.g. [0.25,0.05,0.02]")
        if self.target and self.robot == SIM:
            raise Mistake(f"target=: only with robot={REAL} or {TWIN}; the simulated scene has things of its own")


@dataclass(frozen=True)
class PlayConfig(ArmConfig):
    """The options of semagram-play."""

    sentence: str = ""
    control_hz: int = 30

    def __post_init__(self):
        """Raise ValueError for a missing sentence, a value out of range, or one that the robot cannot use."""
        if not self.sentence:
            raise Mistake("sentence=: a JSON file, a list of tokens, e.g. sentence=docs/arm.json")
        check("", self, "control_hz", low=10, high=100)
        super().__post_init__()


@dataclass(frozen=True)
class ServeConfig:
    """The options of semagram-serve."""

    checkpoint: str = ""
    host: str = "127.0.0.1"
    port: int = PORT
    secret: str = ""
    seed: int = 100
    device: str = "cpu"
    threads: int = 1
    planner: bool = True

    def __post_init__(self):
        """Raise ValueError for a missing value or one out of range."""
        if not self.checkpoint:
            raise Mistake("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/so101-touch/<run>")
        if not self.secret:
            raise Mistake("secret=: a file only you can read, e.g. openssl rand -hex 32 > s; chmod 600 s; secret=s")
        _check_host(self.host, "host", self.host)
        check("", self, "port", low=0, high=65535)
        check("", self, "threads", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)


def split_address(text: str, key: str) -> tuple[str, int]:
    """Split "host:port" into host and port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Mistake(f"{key}={text}: a host and a port, e.g. {key}=192.168.1.20:{PORT}")
    host = host.strip("[]")
    _check_host(host, key, text)
    return host, int(port)


def _check_host(host: str, key: str, text: str) -> None:
    try:
        host.encode("idna")  # as sockets do
    except UnicodeError as error:
        raise Mistake(f"{key}={text}: no name of a host ({error})") from error
