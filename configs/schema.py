"""The keys of the commands, as strict dataclasses, which check what the YAML files and the user say.

Those of the commands for an arm are in `robot.running.settings`, `robot.recording.settings` and `sim.twin.twin`.
"""

import re
from dataclasses import dataclass, field, fields

from envs.instructions import check as check_sentence
from envs.senses import IMAGE_SIZE, STATE_NAME, Senses
from envs.settings import TaskConfig
from policies.settings import CheckpointConfig, CodecChoices, EvaluationConfig, LoopConfig, ReplayConfig
from sim.so101.tasks import ABSOLUTE, JOINTS, SCRIPTED, TIED
from sim.variation import Variation
from worldmodel.errors import UserError
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig
from worldmodel.strict import check

DEFAULT_TASK = "cartpole-swingup"
RESUMABLE = ("steps", "threads", "video", "compile", "evaluation", "checkpoint", "device")
"""The keys of a training run that may change when it is resumed."""


@dataclass(frozen=True)
class MachineConfig:
    """The device, the number of CPU threads, and whether to compile."""

    device: str = "cpu"
    threads: int = 1
    compile: str = "auto"

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?|auto", self.device):
            raise UserError(f"device={self.device}: one of cpu, cuda, auto; cuda:1 is the second of several")
        if self.threads < 1:
            raise UserError(f"threads={self.threads}: at least 1")
        if self.compile not in ("auto", "true", "false"):
            raise UserError(f"compile={self.compile}: one of auto, true, false")


@dataclass(frozen=True)
class AgentConfig(MachineConfig):
    """Everything about a training run except its task, seed and length."""

    model: ModelConfig = field(default_factory=ModelConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    envs: int = 1
    senses: tuple[str, ...] = (STATE_NAME,)
    image_size: int = IMAGE_SIZE

    @property
    def perceived(self) -> Senses:
        """The senses that the agent perceives. Raises ValueError for an invalid sense."""
        return Senses(self.senses, self.image_size)

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        MachineConfig.__post_init__(self)
        self.perceived  # noqa: B018  evaluated for its checks
        check("", self, "envs", low=1, high=1024)


@dataclass(frozen=True)
class TrainConfig(LoopConfig, AgentConfig):
    """The keys of semagram-train."""

    task: TaskConfig = field(default_factory=lambda: TaskConfig(DEFAULT_TASK))
    randomise: Variation = field(default_factory=Variation)
    video: bool = True
    resume: str = ""

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        LoopConfig.__post_init__(self)
        AgentConfig.__post_init__(self)
        for name in ("demonstrations", "expert_takeover_prob"):
            if getattr(self, name) and self.task.name not in SCRIPTED:
                raise UserError(f"{name}={getattr(self, name)}: only {', '.join(SCRIPTED)} have a script")
        if self.task.state == JOINTS and not self.perceived.cameras:
            raise UserError(f"task.state={JOINTS}: nothing shows where things are; senses=[state,images.<camera>] does")
        if self.model.token.joined and self.task.control == ABSOLUTE:
            raise UserError(f"task.control={ABSOLUTE}: {TIED} with model.token.joined=true, since a curve begins at 0")
        kept = self.replay.room(bool(self.perceived.cameras))
        window = self.learning.horizon * self.model.token.length
        if kept // self.envs <= window:
            name = "capacity" if kept == self.replay.capacity else "frames"
            least = f"at least {(window + 1) * self.envs}, {window + 1} for each of envs={self.envs}"
            raise UserError(f"replay.{name}={kept}: {least}, a window of {window} steps and one more")
        if self.task.sentence and not self.perceived.language:
            raise UserError(f"task.sentence={self.task.sentence}: nothing hears it; senses=[...,language]")
        if self.task.name == "multi" and not self.perceived.language:
            raise UserError(f"senses=[{','.join(self.senses)}]: [...,language] with task=multi, to tell tasks apart")


@dataclass(frozen=True)
class EvaluateConfig(MachineConfig):
    """The keys of semagram-eval.

    `planner`: the planner settings to override; those that are None keep the checkpoint's value. `drop`: senses that
    fail from control step `drop_at` of each episode on. `sentence`: replaces the task's own sentence. `paraphrases`:
    each episode words its task differently, in paraphrases never used in training.
    """

    checkpoint: str = ""
    episodes: int = 10
    seed: int = 100
    video: bool = False
    drop: tuple[str, ...] = ()
    drop_at: int = 0
    sentence: str = ""
    paraphrases: bool = False
    randomise: Variation = field(default_factory=Variation)
    planner: dict = field(default_factory=lambda: {f.name: None for f in fields(PlannerConfig)})

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        MachineConfig.__post_init__(self)
        if self.episodes < 1:
            raise UserError(f"episodes={self.episodes}: at least 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: from 0 to {2**32 - 1}")
        check("", self, "drop_at", low=0)
        if self.drop_at and not self.drop:
            raise UserError(f"drop_at={self.drop_at}: only with drop=, the senses that fail then")
        if self.sentence:
            check_sentence(self.sentence, "sentence")
        if self.sentence and self.paraphrases:
            raise UserError("sentence=, paraphrases=true: one of them")


@dataclass(frozen=True)
class BenchConfig(TrainConfig):
    """The keys of semagram-bench: those of its runs, and which they are."""

    suite: str = "dmc-quick"
    tasks: tuple[str, ...] = ("cartpole-swingup", "cheetah-run", "walker-walk")
    seeds: int = 1
    steps: int = 20_000
    workers: int | str = "auto"
    agent: str = "semagram"
    out: str = "runs/bench/dmc-quick/semagram"
    table: list[str] | str = ""
    readme: str = ""
    video: bool = False

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        TrainConfig.__post_init__(self)
        check("", self, "seeds", low=1)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"tasks=[{','.join(self.tasks)}]: one or several different tasks")
        if self.workers != "auto" and not (isinstance(self.workers, int) and self.workers >= 1):
            raise UserError(f"workers={self.workers}: auto, or a number of at least 1")
        if not self.agent or set(self.agent) & set("/\\ \n"):
            raise UserError(f"agent={self.agent}: a name without spaces or slashes")
        if self.readme and not self.table:
            raise UserError("readme=: only with table=, the results that go into it")


TOKEN_VERBS = ("fit", "draw", "demo")


@dataclass(frozen=True)
class TokensConfig(CodecChoices):
    """The keys of semagram-tokens; `verb` is the subcommand.

    `seconds`: a chunk's length, at the dataset's rate. `held_out`: the fraction of episodes not fitted to, chosen by
    `seed`. `episodes`: how many demonstrations `demo` makes.
    """

    verb: str = ""
    dataset: str = ""
    sentence: str = ""
    out: str = ""
    seconds: float = 1.0
    held_out: float = 0.3
    episodes: int = 80
    seed: int = 0

    def __post_init__(self):
        """Raise ValueError for a value out of range, a missing dataset or folder, or a key the verb does not use."""
        if self.verb not in TOKEN_VERBS:
            raise UserError(f"semagram-tokens{self.verb and ' '}{self.verb}: one of {', '.join(TOKEN_VERBS)}")
        if self.verb == "demo":
            if not self.out:
                raise UserError("out=: a new folder for the demonstrations, e.g. out=runs/arm")
        elif not self.dataset and not (self.verb == "draw" and self.sentence):
            raise UserError("dataset=: a LeRobotDataset's folder; `semagram-tokens demo out=runs/arm` makes one")
        if self.out and self.verb not in ("fit", "demo"):
            raise UserError(f"out={self.out}: only of fit and demo; hydra.run.dir= says where {self.verb} leaves all")
        if self.sentence and self.verb != "draw":
            raise UserError(f"sentence={self.sentence}: only of draw, not of {self.verb}")
        if self.dataset and self.verb == "demo":
            raise UserError(f"dataset={self.dataset}: not of demo, which makes one; out= says where")
        if self.dataset and self.sentence:
            raise UserError("dataset=, sentence=: one of them")
        CodecChoices.__post_init__(self)
        check("", self, "seconds", above=0)
        check("", self, "held_out", low=0.05, high=0.9)
        check("", self, "episodes", low=1)
        check("", self, "seed", low=0, high=2**32 - 1)
