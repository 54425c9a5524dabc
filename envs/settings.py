"""Task settings, and each task's instruction. Must not import torch or Gymnasium: commands read it to print help."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from envs import suite
from policies.settings import Wish
from sim.ramp import ACCELERATION, HIGHEST
from sim.so101.tasks import CONTROLS, DELTA, FULL, REST, STARTS, STATES
from sim.so101.tasks import TASKS as ARM_TASKS
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import check, check_ranges, one_of, ranged

NAMES: tuple[str, ...] = (*suite.NAMES, *ARM_TASKS)  # every task name: the suite's and the arm's
LONGEST = 120  # characters
CHARACTERS = "".join(map(chr, [*range(32, 127), *range(161, 256)]))
"""Characters allowed in an instruction: printable ASCII and Latin-1. (`gymnasium.spaces.Text` needs them listed.)"""

INSTRUCTIONS: dict[str, str] = {
    **{name: suite.TASKS[" ".join(pair)] for name, pair in suite.BY_NAME.items()},
    **{name: task.instruction for name, task in ARM_TASKS.items()},
}
"""The training instruction of each task, by task name."""

REWARDS = OWN, SOLVED, NONE = "own", "success", "none"
JAM, FLIP, WEAK, LOAD, DEAD, MOVED, AWAY = "jam", "flip", "weak", "load", "dead", "moved", "away"
HEAVIER, START = HARMLESS = "heavier", "start"
KINDS = {
    JAM: "a joint with a motor does not move any more",
    FLIP: "a motor turns the other way",
    WEAK: "all motors have a third of their force",
    LOAD: "each body is half as heavy again",
    DEAD: "a motor gives no force",
    MOVED: "things that lie free are 8 cm elsewhere",
    AWAY: "things that lie free are 1 m away, out of reach",
    HEAVIER: "each body is a tenth heavier, which does no harm",
    START: "joints start up to 0.3 m or rad elsewhere, which does no harm",
}


def check_sentence(text: str, where: str) -> str:
    """Return `text`. Raises ValueError, naming its key `where`, if it is blank, too long or not all in CHARACTERS."""
    if not text.strip(" .!"):
        raise UserError(f"{where}: {text!r} is without text; it says what to do, e.g. 'walk forward'")
    if len(text) > LONGEST:
        raise UserError(f"{where}: {len(text)} characters; at most {LONGEST}")
    if odd := sorted(set(text) - set(CHARACTERS)):
        raise UserError(f"{where}: {text!r} has characters outside Latin-1: {' '.join(map(repr, odd))}")
    return text


@dataclass(frozen=True)
class ArmSettings:
    """The settings of a `TaskConfig` that apply to the arm only, all known, and their defaults."""

    control_hz: float = 30.0
    acceleration: int = ACCELERATION
    control: str = DELTA
    end_on_success: bool = False
    state: str = FULL
    start: str = REST


ARM_DEFAULTS = vars(ArmSettings())


@dataclass(frozen=True)
class TaskConfig:
    """A task: a dm_control suite or SO-101 task by name, or `gym` with the `id` of a Gymnasium environment.

    Or `multi` with the `names` of several tasks of one body, one of which is chosen per episode (`envs.wrappers`); all
    share the same settings. `instruction` overrides that of a single task, where language is observed. `wrappers`: of
    the unmodified environment, innermost first, by their names in `worldmodel.registry`. `kwargs`: arguments of a
    Gymnasium environment.

    An action is held for `action_repeat` environment steps, which make up one control step (default: 2 for the suite,
    else 1). `max_control_steps` truncates an episode after that many control steps; 0 keeps the environment's own
    limit. Six keys apply to the arm only: `control_hz` (default 30), the joint targets per second; `acceleration`, the
    servos' (`sim.ramp`); `control`, how
    they are derived from actions (`sim.so101.joints`); `end_on_success`, which ends the episode on success (where
    closeness is rewarded, that teaches the agent to stop just short of it); `state`: `full`, or `joints` for an
    arm that has cameras but no source of object positions; and `start`: `rest`, or `anywhere`, which begins most
    episodes at joint angles drawn evenly from their ranges, in simulation only. `exclude`: components of the
    environment's observation, such as `to_target`, that are left out of the state. `cos_sin`: components that are
    angles in radians, each of which becomes its cosine and, behind all else, its sine, as one that turns without limit
    is hard to learn from. `reward`: `own`; `success`, which is 1 at each environment step after which the task is done,
    else 0; or `none`, which is 0 at every step; what the model does not know yet is then explored
    (`policies.training.trainer`). `guidance`: wishes whose fulfilment is the reward, by their weights; the rest of the
    weight is the environment's own reward.
    """

    name: str
    id: str = ""
    action_repeat: int | None = None
    max_control_steps: int = ranged(0, low=0)
    control_hz: float | None = None
    acceleration: int | None = None
    control: str | None = one_of(None, CONTROLS)
    end_on_success: bool | None = None
    state: str | None = one_of(None, STATES)
    start: str | None = one_of(None, STARTS)
    names: tuple[str, ...] = ()
    instruction: str = ""
    wrappers: tuple[str, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    exclude: tuple[str, ...] = ()
    cos_sin: tuple[str, ...] = ()
    reward: str = one_of(OWN, REWARDS)
    guidance: tuple[Wish, ...] = ()

    def __post_init__(self):
        """Fill in defaults. Raises ValueError, naming the key, for a task that cannot be made."""
        self._check_kind()
        for name in self.wrappers:
            registry.check("wrapper", name, "task.wrappers")
        object.__setattr__(self, "action_repeat", self.repeat)
        check_ranges("task.", self)
        if self.repeat < 1:
            raise UserError(f"task.action_repeat={self.action_repeat}: at least 1")
        arms = [name in ARM_TASKS for name in self.names or (self.name,)]
        arm = all(arms)
        if any(arms) and not arm:
            raise UserError(f"task.names=[{','.join(self.names)}]: the SO-101's tasks go with each other only")
        for name, default in ARM_DEFAULTS.items():
            if not arm and getattr(self, name) is not None:
                raise UserError(f"task.{name}={getattr(self, name)}: only for the SO-101's tasks, not {self.label}")
            if arm and getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if arm and self.repeat > 1:
            raise UserError(
                f"task.action_repeat={self.action_repeat}: 1 for the SO-101's tasks, whose pace task.control_hz= sets"
            )
        if arm:
            check("task.", self, "control_hz", low=5, high=100)
            check("task.", self, "acceleration", low=0, high=HIGHEST)

    def _check_kind(self) -> None:
        """Raise ValueError for an unknown name, or for a key that belongs to another kind of task."""
        if self.name == "gym" and not self.id:
            raise UserError("task.id=: the Gymnasium environment, e.g. task.id=Pendulum-v1 or package:Id-v0")
        if self.name == "multi":
            if len(set(self.names)) < 2 or len(set(self.names)) < len(self.names):
                raise UserError(
                    f"task.names=[{','.join(self.names)}]: two or more different tasks, "
                    "e.g. task=multi task.names=[walker-stand,walker-walk,walker-run]"
                )
            for name in self.names:
                find(name, "task.names")
            if self.instruction:
                raise UserError(
                    f"task.instruction={self.instruction}: only for a single task; each of task.names has its own"
                )
        elif self.name != "gym":
            find(self.name)
        if self.id and self.name != "gym":
            raise UserError(f"task.id={self.id}: only with task.name=gym, not with task.name={self.name}")
        if self.kwargs and self.name != "gym":
            raise UserError(
                f"task.kwargs.{next(iter(self.kwargs))}=: only for Gymnasium environments, not {self.label}"
            )
        if self.names and self.name != "multi":
            raise UserError(f"task.names=[{','.join(self.names)}]: only with task=multi, not with task={self.name}")
        if self.instruction:
            check_sentence(self.instruction, "task.instruction")

    @property
    def repeat(self) -> int:
        """Environment steps that an action is held for: `action_repeat`, or its default."""
        if self.action_repeat is None:
            return max(2 if name in suite.NAMES else 1 for name in self.names or (self.name,))
        return self.action_repeat

    @property
    def arm(self) -> ArmSettings:
        """The settings of the arm's tasks. Raises ValueError for another task."""
        own = {name: getattr(self, name) for name in ARM_DEFAULTS}
        if None in own.values():
            raise UserError(f"{self.label}: not a task of the SO-101")
        return ArmSettings(**own)

    @property
    def parts(self) -> "tuple[TaskConfig, ...]":
        """The individual tasks of `multi`, each with these settings; for any other task, itself alone."""
        return tuple(replace(self, name=name, names=()) for name in self.names) or (self,)

    @property
    def words(self) -> str:
        """The task's instruction. Raises ValueError for `gym` and `multi` if `instruction` is not set."""
        if self.name in ("gym", "multi") and not self.instruction:
            raise UserError(f"task.instruction=: what {self.label} is about, e.g. task.instruction='walk forward'")
        return self.instruction or INSTRUCTIONS[suite.ALIASES.get(self.name, self.name)]

    @property
    def is_arm(self) -> bool:
        """Whether this is a single SO-101 task (False for `multi`)."""
        return self.name in ARM_TASKS

    @property
    def label(self) -> str:
        """Name of the task for messages: its name or names, or its Gymnasium id."""
        return label(self.name, self.id, self.names)


def label(name: object, gym_id: object, names: object) -> str:
    """Return the label of a task with these settings, which need not be valid."""
    several = "+".join(map(str, names)) if isinstance(names, Iterable) else names
    return str({"gym": gym_id, "multi": several}.get(str(name), name))


def folder_name(task: str) -> str:
    """Return a task's label as the name of a folder: without a colon, which has a meaning in paths."""
    return task.replace(":", "-")


def find(name: str, key: str = "task.name") -> None:
    """Raise ValueError for an unknown task, suggesting names; `key` is the setting it was given in."""
    if name.startswith("so101-"):
        if name not in ARM_TASKS:
            raise UserError(f"{key}={name}: no such task; the SO-101's are {', '.join(ARM_TASKS)}")
    else:
        suite.find(name, key)


@dataclass(frozen=True)
class FaultConfig:
    """What breaks (one of KINDS; "": nothing) from control step `at_step` on; the seed draws the joint or motor.

    `mended_by`: a file that a tool of another process leaves to make the body whole; the body takes it away.
    """

    kind: str = one_of("", KINDS)
    at_step: int = ranged(0, low=0)
    mended_by: str = ""

    def __post_init__(self):
        check_ranges("fault.", self)
        for name in ("at_step", "mended_by"):
            if (value := getattr(self, name)) and not self.kind:
                raise UserError(f"fault.{name}={value}: only with fault.kind=, what breaks then")
        if self.at_step and self.kind == START:
            raise UserError(f"fault.at_step={self.at_step}: 0 with fault.kind={START}")

    @classmethod
    def of(cls, text: str) -> "FaultConfig":
        """Return what `faults=[flip@60]`, or `[flip@60:<file that mends it>]`, names. Raises UserError."""
        kind, _, rest = text.partition("@")
        step, _, mended_by = rest.partition(":")
        if kind not in KINDS or not step.isdecimal():
            raise UserError(f"faults=[{text}]: one of {', '.join(KINDS)} and a control step, e.g. {FLIP}@60")
        return cls(kind, int(step), mended_by)
