"""Settings of the commands about an arm: which arm it is, what is run, recorded, played or planned. Light to import."""

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from policies.settings import GuidanceKeys
from policies.tools import Tool
from robot.safety.limits import PRESETS
from sim.so101.tasks import SCRIPTED, TASKS
from sim.twin.control import control_of, listens
from worldmodel.errors import UserError
from worldmodel.strict import check_ranges, one_of, ranged

SIM, REAL, TWIN = "so101-sim", "so101", "so101-twin"
ROBOTS = (SIM, REAL, TWIN)
CAMERAS = {"main": "side", "front": "side", "side": "side", "wrist": "wrist", "overhead": "overhead"}
"""The simulated arm's cameras: name to viewpoint (`robot.config_so101`)."""
VIEWERS = ("terminal", "web", "none")
EXPERT, POLICY, TELEOP, SCRIPT = "expert", "policy", "teleop", "script"
DRIVERS = (EXPERT, POLICY, TELEOP)
PREFIX = "so101-"
CAMERA = {"width": 320, "height": 240}
LEAST_OF_VIDEO = 32  # least width and height in pixels: below it the video encoder (SVT-AV1) kills the process


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """The options that every command about an arm has. `usual_limits`: the gate's, except on a real arm."""

    usual_limits: ClassVar[str] = "normal"

    robot: str = one_of(SIM, ROBOTS)
    limits: str = one_of("", PRESETS)
    port: str = ""
    id: str = ""
    calibration_dir: str = ""
    port_file: str = ""

    def __post_init__(self):
        check_ranges("", self)
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


@dataclass(frozen=True, kw_only=True)
class PlannerOptions:
    """Which checkpoint plans, and with what. `planner` false: its policy alone decides. `plugins`: imported first."""

    checkpoint: str = ""
    seed: int = ranged(100, low=0, high=2**32 - 1)
    device: str = "cpu"
    threads: int = ranged(1, low=1)
    planner: bool = True
    plugins: tuple[str, ...] = ()

    def _check_checkpoint(self) -> None:
        if not self.checkpoint:
            raise UserError("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/so101-touch/<run>")


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig(PlannerOptions, ArmConfig):
    """The options of a session of episodes on an arm, run or recorded."""

    episodes: int = ranged(10, low=1)
    seconds: float = ranged(0.0, low=0, high=3600)
    instruction: str = ""
    robot_cameras: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if self.robot_cameras and self.simulated:
            raise UserError(f"robot_cameras=: not with robot={SIM}, whose cameras are any of {', '.join(CAMERAS)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(EpisodeConfig):
    """The options of semagram-run."""

    usual_limits: ClassVar[str] = "trained"  # as fast as in training

    on_task: str = ""
    target: list[float] = field(default_factory=list)
    lead: int = ranged(2, low=1)
    remote: str = ""
    viewer: str = one_of("terminal", VIEWERS)
    viewer_port: int = ranged(0, low=0, high=2**16 - 1)
    trace: bool = False
    calibrate: int = ranged(0, low=0, high=100_000)
    false_alarms: float = ranged(0.05, above=0, high=0.5)
    ask: bool = False
    shown: str = ""
    ask_timeout_s: float = ranged(60.0, above=0, high=3600)
    ladder: bool = False
    tools: tuple[str, ...] = ()
    guidance: GuidanceKeys = field(default_factory=GuidanceKeys)

    def __post_init__(self):
        self._check_checkpoint()
        super().__post_init__()
        if self.viewer_port and self.viewer != "web":
            raise UserError(f"viewer_port={self.viewer_port}: it is for viewer=web")
        if self.target and (len(self.target) != 3 or not all(math.isfinite(x) and abs(x) <= 1 for x in self.target)):
            raise UserError(f"target={self.target}: x, y and z in metres from the arm's base, e.g. [0.25,0.05,0.02]")
        if self.target and self.simulated:
            raise UserError(f"target=: only with robot={REAL} or {TWIN}; the simulated scene has objects of its own")
        if self.remote:
            planner_address(self.remote, "remote")
            unused(self, "device threads planner", "not with remote=; semagram-serve has these keys")
            if self.guidance.given:
                raise UserError("guidance=: not with remote=; semagram-serve has this key")
            unused(self, "trace ask ladder calibrate", "not with remote=, whose planner is another machine's")
        if self.tools and not self.ladder:
            raise UserError(f"tools=[{','.join(self.tools)}]: only with ladder=true, which uses them")
        Tool.check(self.tools)
        if self.ask and (self.ladder or len(self.guidance.given) < 2):
            raise UserError("ask=true: with guidance=[a,b,...], of which one is meant, and without ladder=true")
        if self.shown and not self.ask:
            raise UserError(f"shown={self.shown}: only with ask=true, which then asks if it may mean several guidances")
        if not self.planner:
            unused(self, "ask ladder calibrate", "only with planner=true, whose plans are read")
        if self.calibrate and self.ladder:
            raise UserError(f"calibrate={self.calibrate}: without ladder=true, which acts on the alarms that it makes")


@dataclass(frozen=True, kw_only=True)
class RecordConfig(EpisodeConfig):
    """The options of semagram-record."""

    dataset: str = ""
    sim_task: str = "touch"
    driver: str = one_of(EXPERT, DRIVERS)
    episodes: int = ranged(20, low=1)
    seed: int = ranged(0, low=0, high=2**32 - 1)
    reset_seconds: float = ranged(0.0, low=0, high=3600)
    takeover: str = one_of("", (TELEOP, SCRIPT))
    takeover_s: float = ranged(4.0, low=0, high=3600)
    give_back_s: float = ranged(0.0, low=0, high=60)
    pedal: str = ""
    target: list[float] = field(default_factory=list)
    control_hz: int = ranged(30, low=5, high=100)
    cameras: list[str] = field(default_factory=list)
    camera: dict = field(default_factory=lambda: dict(CAMERA))
    trace: bool = False
    teleop: dict = field(default_factory=lambda: {"type": "", "port": "", "id": "", "calibration_dir": ""})

    def __post_init__(self):
        if not self.dataset:
            raise UserError("dataset=: the folder to record to, e.g. dataset=runs/touch-demos")
        super().__post_init__()
        if self.seconds and round(self.seconds * self.control_hz) < 2:
            raise UserError(f"seconds={self.seconds:g}: two steps at least, {2 / self.control_hz:.3g} s")
        if self.simulated:
            self._check_task(TASKS, "one of {}")
        elif not self.instruction:
            raise UserError("instruction=: what is done, in words, e.g. instruction='Put the cube in the bowl.'")
        self._check_cameras()
        self._check_driver()

    @property
    def waits(self) -> bool:
        """Whether recording runs in real time: on an arm that does, or for a person."""
        return not self.simulated or TELEOP in (self.driver, self.takeover)

    @property
    def trace_folder(self) -> Path | None:
        """Where the policy's decisions are kept: beside the dataset; None if they are not."""
        return Path(self.dataset).with_name(f"{Path(self.dataset).name}.trace") if self.trace else None

    @property
    def task_name(self) -> str:
        """The full name of the simulated task."""
        return self.sim_task if self.sim_task.startswith(PREFIX) else PREFIX + self.sim_task

    @property
    def longest_s(self) -> float:
        """The longest duration of an episode: `seconds`, else the task's (twice that for a script), else 30 s."""
        if self.seconds:
            return self.seconds
        return TASKS[self.task_name].seconds * (2 if self.driver == EXPERT else 1) if self.simulated else 30.0

    def _check_task(self, known, what: str) -> None:
        if self.task_name not in known:
            names = ", ".join(name.removeprefix(PREFIX) for name in known)
            raise UserError(f"sim_task={self.sim_task}: {what.format(names)}")

    def _check_cameras(self) -> None:
        for name in self.cameras:
            if not self.simulated or name not in CAMERAS:
                raise UserError(
                    f"cameras=[{name}]: with robot={SIM}, any of {', '.join(CAMERAS)}; a real arm's are robot_cameras"
                )
        for key, value in self.camera.items():
            if key not in CAMERA or not isinstance(value, int) or not LEAST_OF_VIDEO <= value <= 4096:
                raise UserError(f"camera.{key}={value}: width and height, from {LEAST_OF_VIDEO} to 4096 pixels")
            if not self.cameras and value != CAMERA[key]:
                raise UserError(f"camera.{key}={value}: only with cameras=, in simulation")

    def _check_driver(self) -> None:
        led = TELEOP in (self.driver, self.takeover)
        if led and not self.teleop.get("type"):
            raise UserError("teleop.type=: any of LeRobot's teleoperators, e.g. teleop.type=so101_leader")
        if not led and any(self.teleop.values()):
            raise UserError(f"teleop.type={self.teleop.get('type')}: only with driver={TELEOP} or takeover={TELEOP}")
        if (self.driver == POLICY) != bool(self.checkpoint):
            raise UserError(f"checkpoint={self.checkpoint}: a run folder or a checkpoint, with driver={POLICY}")
        if self.driver != POLICY:
            unused(self, "planner device threads takeover", f"only with driver={POLICY}")
        if self.takeover != TELEOP:
            unused(self, "give_back_s pedal", f"only with takeover={TELEOP}")
        if self.takeover != SCRIPT:
            unused(self, "takeover_s", f"only with takeover={SCRIPT}")
        elif not self.simulated:
            raise UserError(f"takeover={SCRIPT}: only with robot={SIM}, which knows where objects are; {TELEOP}")
        else:
            self._check_task(SCRIPTED, f"scripts exist for {{}}; takeover={TELEOP} for the others")
        if self.target and (self.simulated or self.driver != POLICY):
            raise UserError(f"target={self.target}: only with driver={POLICY}, on an arm that is not simulated")
        if self.trace and not (self.simulated and self.driver == POLICY):
            raise UserError(f"trace=true: only with driver={POLICY} robot={SIM}; semagram-run has it of every arm")
        if self.driver == EXPERT and not self.simulated:
            raise UserError(f"driver={self.driver}: only with robot={SIM}, which knows where objects are; {TELEOP}")
        if self.driver == EXPERT:
            self._check_task(SCRIPTED, f"scripts exist for {{}}; driver={POLICY} or driver={TELEOP} for the others")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The options of semagram-data."""

    check: str = ""
    mark: list[str] = field(default_factory=list)
    repair: str = ""
    out: str = ""

    def __post_init__(self):
        if bool(self.check) == bool(self.repair):
            raise UserError("check=: a dataset's folder, or repair=<dataset> out=<copy>; one of them")
        if bool(self.repair) != bool(self.out):
            raise UserError(f"out={self.out}: a new folder for the copy, with repair=<dataset>")
        if self.mark and self.repair:
            raise UserError("mark=: with check=; repair= leaves the dataset as it is")
        if wrong := [each for each in self.mark if not re.fullmatch(r"[0-9]+:(good|bad)", each)]:
            raise UserError(f"mark={wrong[0]}: <episode>:good or <episode>:bad, e.g. mark=[3:bad,7:good]")


@dataclass(frozen=True, kw_only=True)
class PlayConfig(ArmConfig):
    """The options of semagram-play."""

    plan: str = ""
    control_hz: int = ranged(30, low=10, high=100)

    def __post_init__(self):
        if not self.plan:
            raise UserError("plan=: a JSON file, a list of tokens, e.g. plan=docs/arm.json")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ServeConfig(PlannerOptions):
    """The options of semagram-serve. `mcp`: arguments of semagram-run; it is then an MCP server, too."""

    address: str = "~/.semagram/planner.sock"
    mcp: str = ""
    guidance: GuidanceKeys = field(default_factory=GuidanceKeys)

    def __post_init__(self):
        self._check_checkpoint()
        check_ranges("", self)
        planner_address(self.address, "address")


def unused(config, names: str, why: str) -> None:
    """Raise ValueError if any of `names` is not at its default, since it would be ignored; `why`, in words."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in names.split():
        if (value := getattr(config, name)) != defaults[name]:
            raise UserError(f"{name}={str(value).lower() if isinstance(value, bool) else value}: {why}")


def planner_address(text: str, key: str) -> str:
    """Return the path of a planner's Unix socket. Raises UserError, naming the key, for another machine's address."""
    if not text or ":" in text:
        raise UserError(f"{key}={text}: a Unix socket; ssh -L brings one here from another machine")
    return str(Path(text).expanduser())


def port_of_twin(port_file: Path) -> str:
    """Return the serial port of the twin that wrote this file. Raises ValueError if no twin serves it."""
    start = f"start `semagram-twin port_file={port_file}`"
    if not port_file.exists():
        raise UserError(f"port_file={port_file}: no such file; {start} first")
    control = control_of(port_file)
    if control.exists() and not listens(control):
        # It was killed, and its port may belong to something else by now.
        raise UserError(f"port_file={port_file}: its twin is gone; {start} again")
    return port_file.read_text().strip()
