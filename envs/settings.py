"""What can be set about a task. No torch and no Gymnasium here: commands read it to print help."""

from dataclasses import asdict, dataclass

from envs import suite
from sim.so101_tasks import CONTROLS, TIED
from sim.so101_tasks import TASKS as ARM_TASKS

NAMES: tuple[str, ...] = (*suite.NAMES, *ARM_TASKS)
"""Every task by name: the suite's, the arm's."""

ARM_DEFAULTS = {"control_hz": 30.0, "control": TIED, "end_on_success": False}


@dataclass(frozen=True)
class TaskConfig:
    """A task: one of the dm_control suite or of the SO-101 by name, or `gym` with the `id` of a Gymnasium environment.

    An action is held for `action_repeat` environment steps, which make one decision (unless set: 2 for the
    suite, else 1). `max_decisions` truncates an episode after so many decisions; 0 leaves the environment's
    own limit. Three keys are the arm's alone: `control_hz` (unless set, 30) targets a second, read as `control` says
    (`robot.targets`), and `end_on_success`: end the episode where it succeeds, which, where the reward is for being
    close, teaches to stay just short of it.
    """

    name: str
    id: str = ""
    action_repeat: int | None = None
    max_decisions: int = 0
    control_hz: float | None = None
    control: str | None = None
    end_on_success: bool | None = None

    def __post_init__(self):
        """Fill in what is left open. Raise ValueError, naming the key, for a task that can't be made."""
        if self.name == "gym":
            if not self.id:
                raise ValueError("task.id=: the Gymnasium environment, e.g. task.id=Pendulum-v1 or package:Id-v0")
        else:
            find(self.name)
            if self.id:
                raise ValueError(f"task.id={self.id}: only with task.name=gym, not with task.name={self.name}")
        if self.action_repeat is None:
            object.__setattr__(self, "action_repeat", 2 if self.name in suite.NAMES else 1)
        if self.action_repeat < 1:
            raise ValueError(f"task.action_repeat={self.action_repeat}: at least 1")
        if self.max_decisions < 0:
            raise ValueError(f"task.max_decisions={self.max_decisions}: at least 0 (0: the environment's own limit)")
        for name, default in ARM_DEFAULTS.items():
            if not self.is_arm and getattr(self, name) is not None:
                raise ValueError(f"task.{name}={getattr(self, name)}: only for the SO-101's tasks, not {self.label}")
            if self.is_arm and getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if self.is_arm and not 5 <= self.control_hz <= 100:
            raise ValueError(f"task.control_hz={self.control_hz}: from 5 to 100")
        if self.is_arm and self.control not in CONTROLS:
            raise ValueError(f"task.control={self.control}: one of {', '.join(CONTROLS)}")

    @property
    def is_arm(self) -> bool:
        """Whether it is one of the SO-101's."""
        return self.name in ARM_TASKS

    @property
    def label(self) -> str:
        """What to call the task in a message or a folder: its name, or its Gymnasium id."""
        return self.id if self.name == "gym" else self.name

    def keys(self) -> dict:
        """Its keys and values, without those that another kind of task has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def find(name: str) -> None:
    """Raise ValueError, with the closest names, for one that is no task."""
    if name.startswith("so101-"):
        if name not in ARM_TASKS:
            raise ValueError(f"task.name={name}: no such task; the SO-101's are {', '.join(ARM_TASKS)}")
    else:
        suite.find(name)
