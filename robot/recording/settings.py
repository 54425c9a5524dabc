"""Settings of recording. Commands import it to print help, so it imports nothing heavy."""

from dataclasses import dataclass, field

from robot.arm_options import CAMERAS, SIM, ArmConfig, unused
from sim.so101.tasks import SCRIPTED, TASKS
from worldmodel.errors import UserError
from worldmodel.strict import check

EXPERT, POLICY, TELEOP = "expert", "policy", "teleop"
BY = (EXPERT, POLICY, TELEOP)
PREFIX = "so101-"
CAMERA = {"width": 320, "height": 240}
LEAST_OF_VIDEO = 32
"""Least width and height in pixels: below it the video encoder (SVT-AV1) kills the process."""


@dataclass(frozen=True)
class RecordConfig(ArmConfig):
    """The options of semagram-record."""

    dataset: str = ""
    task: str = "touch"
    sentence: str = ""
    by: str = EXPERT
    episodes: int = 20
    seconds: float = 0.0
    reset_seconds: float = 0.0
    control_hz: int = 30
    paced: str = "auto"
    real_time: bool = False
    seed: int = 0
    cameras: list[str] = field(default_factory=list)
    camera: dict = field(default_factory=lambda: dict(CAMERA))
    robot_cameras: dict = field(default_factory=dict)
    video: bool = True
    teleop: dict = field(default_factory=lambda: {"type": "", "port": "", "id": "", "calibration_dir": ""})
    checkpoint: str = ""
    planner: bool = True
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        """Raise ValueError for a value out of range, or one that is incompatible with the others."""
        if not self.dataset:
            raise UserError("dataset=: the folder to record to, e.g. dataset=runs/touch-demos")
        if self.by not in BY:
            raise UserError(f"by={self.by}: one of {', '.join(BY)}")
        if self.paced not in ("auto", "true", "false"):
            raise UserError(f"paced={self.paced}: one of auto, true, false")
        check("", self, "episodes threads", low=1)
        check("", self, "seconds reset_seconds", low=0, high=3600)
        check("", self, "control_hz", low=5, high=100)
        if self.seconds and round(self.seconds * self.control_hz) < 2:
            raise UserError(f"seconds={self.seconds:g}: two steps at least, {2 / self.control_hz:.3g} s")
        check("", self, "seed", low=0, high=2**32 - 1)
        self._check_robot()
        self._check_by()

    @property
    def waits(self) -> bool:
        """Whether recording runs in real time."""
        return self.paced == "true" or (self.paced == "auto" and (not self.simulated or self.by == TELEOP))

    @property
    def task_name(self) -> str:
        """The full name of the simulated task."""
        return self.task if self.task.startswith(PREFIX) else PREFIX + self.task

    @property
    def longest_s(self) -> float:
        """The longest duration of an episode: `seconds`, else the task's (twice that for a script), else 30 s."""
        if self.seconds:
            return self.seconds
        return TASKS[self.task_name].seconds * (2 if self.by == EXPERT else 1) if self.simulated else 30.0

    def _check_robot(self) -> None:
        super().__post_init__()
        if self.simulated and self.task_name not in TASKS:
            names = ", ".join(name.removeprefix(PREFIX) for name in TASKS)
            raise UserError(f"task={self.task}: one of {names}")
        if not self.simulated and not (self.sentence or self.task_name in TASKS):
            raise UserError("sentence=: what is done, in words, e.g. sentence='Put the cube in the bowl.'")
        if not self.simulated and self.paced == "false":
            raise UserError(f"paced=false: only with robot={SIM}")
        for name in self.cameras:
            if not self.simulated or name not in CAMERAS:
                raise UserError(
                    f"cameras=[{name}]: with robot={SIM}, any of {', '.join(CAMERAS)}; a real arm's are robot_cameras"
                )
        if self.robot_cameras and self.simulated:
            raise UserError(f"robot_cameras=: not with robot={SIM}; its cameras are any of {', '.join(CAMERAS)}")
        least = LEAST_OF_VIDEO if self.video else 16
        for key, value in self.camera.items():
            if key not in ("width", "height") or not isinstance(value, int) or not least <= value <= 4096:
                smaller = "; from 16 with video=false" if self.video else ""
                raise UserError(f"camera.{key}={value}: width and height, from {least} to 4096 pixels{smaller}")
            if not self.cameras and value != CAMERA[key]:
                raise UserError(f"camera.{key}={value}: only with cameras=, in simulation")

    def _check_by(self) -> None:
        if self.by == TELEOP and not self.teleop.get("type"):
            raise UserError("teleop.type=: any of LeRobot's teleoperators, e.g. teleop.type=so101_leader")
        if self.by != TELEOP and any(self.teleop.values()):
            raise UserError(f"teleop.type={self.teleop.get('type')}: only with by={TELEOP}")
        if (self.by == POLICY) != bool(self.checkpoint):
            raise UserError(f"checkpoint={self.checkpoint}: a run folder or a checkpoint, with by={POLICY}")
        if self.by != POLICY:
            unused(self, "planner device threads", f"only with by={POLICY}")
        if self.by != TELEOP and not self.simulated:
            raise UserError(f"by={self.by}: only with robot={SIM}, which tells where its things are; by={TELEOP}")
        if self.by == EXPERT and self.task_name not in SCRIPTED:
            names = ", ".join(name.removeprefix(PREFIX) for name in SCRIPTED)
            raise UserError(f"task={self.task}: scripts exist for {names}; by={POLICY} or by={TELEOP} for the others")
