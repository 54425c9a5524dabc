"""Every key of every command, as strict dataclasses; Hydra's defaults are made from them, so each stands once."""

from dataclasses import asdict, dataclass, field

from envs.settings import TaskConfig
from envs.suite import NAMES
from policies.settings import CheckpointConfig, EvaluationConfig, LoopConfig, ReplayConfig
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig

DEFAULT_TASK = "cartpole-swingup"


@dataclass(frozen=True)
class MachineConfig:
    """Where and how a command computes."""

    device: str = "cpu"
    threads: int = 1
    compile: str = "auto"

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        if self.device.split(":")[0] not in ("cpu", "cuda", "auto"):
            raise ValueError(f"device={self.device}: one of cpu, cuda, auto")
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: at least 1")
        if self.compile not in ("auto", "true", "false"):
            raise ValueError(f"compile={self.compile}: one of auto, true, false")


@dataclass(frozen=True)
class TrainConfig(LoopConfig, MachineConfig):
    """The keys of semagram-train."""

    task: TaskConfig = field(default_factory=lambda: TaskConfig(DEFAULT_TASK))
    model: ModelConfig = field(default_factory=ModelConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    envs: int = 1
    video: bool = True
    resume: str = ""

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        LoopConfig.__post_init__(self)
        MachineConfig.__post_init__(self)
        if self.envs < 1:
            raise ValueError(f"envs={self.envs}: at least 1")


@dataclass(frozen=True)
class EvaluateConfig(MachineConfig):
    """The keys of semagram-eval."""

    checkpoint: str = ""
    episodes: int = 10
    seed: int = 100
    video: bool = False

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        MachineConfig.__post_init__(self)
        if not self.checkpoint:
            raise ValueError(
                "checkpoint=: the folder of a checkpoint, e.g. checkpoint=runs/…/checkpoints/last"
            )
        if self.episodes < 1:
            raise ValueError(f"episodes={self.episodes}: at least 1")


def register() -> None:
    """Give Hydra the defaults, and every task by its name."""
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    store = ConfigStore.instance()
    for name in NAMES:
        store.store(group="task", name=name, node=asdict(TaskConfig(name)))
    store.store(
        group="task", name="gym", node={"name": "gym", "id": "", "action_repeat": 1, "max_decisions": 0}
    )
    train = asdict(TrainConfig())
    del train["task"]
    folder = "runs/${semagram.label:${task.name},${task.id}}/${now:%Y-%m-%d_%H-%M-%S}-seed${seed}"
    store.store(
        name="train", node={"defaults": [{"task": DEFAULT_TASK}, *QUIET, "_self_"], **train, **_hydra(folder)}
    )
    evaluate = {"checkpoint": "", "episodes": 10, "seed": 100, "video": False, **asdict(MachineConfig())}
    store.store(
        name="evaluate",
        node={
            "defaults": [*QUIET, "_self_"],
            **evaluate,
            **_hydra("runs/evaluations/${now:%Y-%m-%d_%H-%M-%S}"),
        },
    )


QUIET = [{"override hydra/job_logging": "disabled"}, {"override hydra/hydra_logging": "disabled"}]


def _hydra(folder: str) -> dict:
    return {"hydra": {"run": {"dir": folder}, "output_subdir": None}}
