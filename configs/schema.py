"""The keys of the commands, as strict dataclasses. Those of an arm: `robot.settings`, `sim.twin.twin`."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields

from envs.senses import IMAGE_SIZE, STATE_NAME, Senses, check_image_size
from envs.settings import FaultConfig, TaskConfig, check_sentence
from policies.settings import CheckpointConfig, CodecChoices, EvaluationConfig, GuidanceKeys, LoopConfig, ReplayConfig
from policies.tools import Tool
from sim.so101.tasks import ABSOLUTE, DELTA, JOINTS, SCRIPTED
from sim.variation import Variation
from worldmodel.errors import UserError
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig
from worldmodel.strict import check, check_ranges, one_of, ranged

DEFAULT_TASK = "cartpole-swingup"
TRACKERS = ("tensorboard", "wandb", "trackio")
ON_FAULT = STOP, DROP = "stop", "drop_episode"
RESUMABLE = "steps", "threads", "video", "compile", "on_fault", "evaluation", "checkpoint", "device", "plugins", "track"
"""The keys of a training run that may change when it is resumed."""


@dataclass(frozen=True)
class MachineConfig:
    """The device, the number of CPU threads, whether to compile; modules to import first (`worldmodel.registry`)."""

    device: str = "cpu"
    threads: int = ranged(1, low=1)
    compile: str = one_of("auto", ("auto", "true", "false"))
    plugins: tuple[str, ...] = ()

    def __post_init__(self):
        check_ranges("", self)
        if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?|auto", self.device):
            raise UserError(f"device={self.device}: one of cpu, cuda, auto; cuda:1 is the second of several")


@dataclass(frozen=True)
class TrainConfig(LoopConfig, MachineConfig):
    """The keys of semagram-train. `envs` 0: only from `data`. `guidance` fills in `task.guidance` (`configs.train`)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    envs: int = ranged(1, low=0, high=1024)
    data: tuple[str, ...] = ()
    held_out: float = ranged(0.1, low=0, high=0.9)
    copies: int = ranged(48, low=0, high=1000)
    cache_gb: float = ranged(4.0, above=0)
    senses: tuple[str, ...] = (STATE_NAME,)
    image_size: int = IMAGE_SIZE
    task: TaskConfig = field(default_factory=lambda: TaskConfig(DEFAULT_TASK))
    randomise: Variation = field(default_factory=Variation)
    video: bool = True
    track: tuple[str, ...] = ()
    on_fault: str = one_of(STOP, ON_FAULT)
    resume: str = ""
    guidance: GuidanceKeys = field(default_factory=GuidanceKeys)
    init: str = ""

    @property
    def perceived(self) -> Senses:
        """The senses that the agent perceives. Raises ValueError for an invalid sense."""
        return Senses(self.senses, self.image_size)

    def __post_init__(self):
        LoopConfig.__post_init__(self)
        for name in self.track:
            if name not in TRACKERS or self.track.count(name) > 1:
                raise UserError(f"track=[{','.join(self.track)}]: some of {', '.join(TRACKERS)}, each once")
        MachineConfig.__post_init__(self)
        seen = self.perceived
        for name in ("demonstrations", "expert_takeover_prob"):
            if getattr(self, name) and self.task.name not in SCRIPTED:
                raise UserError(f"{name}={getattr(self, name)}: only {', '.join(SCRIPTED)} have a script")
        if self.model.token.joined and self.task.control == ABSOLUTE:
            raise UserError(f"task.control={ABSOLUTE}: {DELTA} with model.token.joined=true, since a curve begins at 0")
        if not self.envs and not self.data:
            raise UserError("envs=0: only with data=, recordings to learn from")
        if not self.envs and self.evaluation.stop_at_return is not None:
            raise UserError("evaluation.stop_at_return=: not with envs=0, where no episode is played")
        if self.data and not self.task.is_arm:
            raise UserError(f"data=: recorded of an SO-101; {self.task.label} is none of its tasks")
        kept, rings = self.replay.room(bool(seen.cameras)), max(1, self.envs)
        window = self.learning.horizon * self.model.token.length
        if kept // rings <= window:
            name = "capacity" if kept == self.replay.capacity else "frames"
            least = f"at least {(window + 1) * rings}, {window + 1} for each of envs={self.envs}"
            raise UserError(f"replay.{name}={kept}: {least}, a window of {window} steps and one more")
        self._check_senses(seen)

    def _check_senses(self, seen: Senses) -> None:
        """Raise UserError if what is to be learned cannot be seen."""
        if self.task.state == JOINTS and not seen.cameras and self.task.reward == "own" and not self.task.guidance:
            rest = "senses=[state,images.<camera>] does; without a camera only task.reward=none"
            raise UserError(f"task.state={JOINTS}: nothing shows where things are; {rest}")
        if "readable" in self.learning.losses and not seen.state:
            raise UserError("learning.losses.readable: only with state among the senses")
        if self.task.instruction and not seen.language:
            raise UserError(f"task.instruction={self.task.instruction}: only perceived with senses=[...,language]")
        if self.task.name == "multi" and not seen.language:
            raise UserError(f"senses=[{','.join(self.senses)}]: [...,language] with task=multi, to tell tasks apart")


def check_camera_keys(config: TrainConfig, given: Collection[str]) -> None:
    """Raise ValueError if the user set (`given`) image_size or vision keys that apply to no camera of the config."""
    if "image_size" in given:
        check_image_size(config.senses)
    vision = [name for name in sorted(given) if name.startswith("model.vision.")]
    if vision and not config.perceived.cameras:
        raise UserError(f"{vision[0]}: only with a camera among the senses, e.g. senses=[state,images.main]")


EXTREMES = "best", "median", "worst"  # the episodes that an evaluation can film, by their return


@dataclass(frozen=True)
class EvaluateConfig(MachineConfig):
    """The keys of semagram-eval.

    `video_episodes`: of EXTREMES, what the video is to show. `planner`: the planner settings to override; those that
    are None keep the checkpoint's value. `drop_senses`: senses that fail from control step `drop_at_step` of each
    episode on. `instruction`: replaces the task's own. `quantities`: those to report. `fault`: what breaks.
    `calibrate`: episodes from which to make its alarms, so that a share `false_alarms` of good ones raises one; else 0.
    `ladder`: act on them (`policies.ladder`), with these `tools`. `on_task`: replaces the checkpoint's task, on the
    same arm. `data`: recordings to judge it by, without episodes.
    """

    checkpoint: str = ""
    episodes: int = ranged(10, low=1)
    seed: int = ranged(100, low=0, high=2**32 - 1)
    video: bool = False
    video_episodes: tuple[str, ...] = ()
    timing: bool = False
    drop_senses: tuple[str, ...] = ()
    drop_at_step: int = ranged(0, low=0)
    instruction: str = ""
    randomise: Variation = field(default_factory=Variation)
    planner: dict = field(default_factory=lambda: {f.name: None for f in fields(PlannerConfig)})
    guidance: GuidanceKeys = field(default_factory=GuidanceKeys)
    quantities: tuple[str, ...] = ()
    fault: FaultConfig = field(default_factory=FaultConfig)
    calibrate: int = ranged(0, low=0, high=100_000)
    false_alarms: float = ranged(0.05, above=0, high=0.5)
    ladder: bool = False
    tools: tuple[str, ...] = ()
    trace: bool = False
    on_task: str = ""
    data: tuple[str, ...] | str = ()
    cache_gb: float = ranged(4.0, above=0)

    def __post_init__(self):
        MachineConfig.__post_init__(self)
        check_ranges("", self)
        if self.calibrate and (self.fault.kind or self.drop_senses):
            raise UserError(f"calibrate={self.calibrate}: by good episodes, so without fault.kind= and drop_senses=")
        if self.calibrate and self.ladder:
            raise UserError(f"calibrate={self.calibrate}: without ladder=true, which acts on the alarms that it makes")
        if self.tools and not self.ladder:
            raise UserError(f"tools=[{','.join(self.tools)}]: only with ladder=true, which uses them")
        Tool.check(self.tools)
        if isinstance(self.data, str):
            object.__setattr__(self, "data", (self.data,) if self.data else ())
        filmed = f"video_episodes=[{','.join(self.video_episodes)}]"
        if len(set(self.video_episodes) & set(EXTREMES)) < len(self.video_episodes):
            raise UserError(f"{filmed}: some of {', '.join(EXTREMES)}, each once")
        if self.video_episodes and not self.video:
            raise UserError(f"{filmed}: only with video=true")
        if self.drop_at_step and not self.drop_senses:
            raise UserError(f"drop_at_step={self.drop_at_step}: only with drop_senses=, those that fail then")
        if self.instruction:
            check_sentence(self.instruction, "instruction")


@dataclass(frozen=True)
class BenchConfig(TrainConfig):
    """The keys of semagram-bench: its runs', and which they are; from `checkpoints` on, those of suite=stuck."""

    suite: str = "dmc-quick"
    tasks: tuple[str, ...] = ("cartpole-swingup", "cheetah-run", "walker-walk")
    seeds: list[int] | int = 1
    steps: int = ranged(20_000, low=1)
    workers: int | str = "auto"
    agent: str = "semagram"
    out: str = "runs/bench/dmc-quick/semagram"
    table: list[str] | str = ""
    readme: str = ""
    video: bool = False
    checkpoints: tuple[str, ...] = ()
    episodes: int = ranged(50, low=1)
    fault_episodes: int = ranged(20, low=1)
    faults: tuple[str, ...] = ("jam@60", "flip@60", "weak@20", "load@20")
    tools: tuple[str, ...] = ()

    @property
    def each_seed(self) -> list[int]:
        """The seeds of each task."""
        return self.seeds if isinstance(self.seeds, list) else [*range(1, self.seeds + 1)]

    def __post_init__(self):
        TrainConfig.__post_init__(self)
        if not self.each_seed or min(self.each_seed) < 0 or len(set(self.each_seed)) < len(self.each_seed):
            raise UserError(f"seeds={self.seeds}: how many, at least 1, or a list of different ones, none below 0")
        for fault in self.faults:
            FaultConfig.of(fault)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"tasks=[{','.join(self.tasks)}]: one or several different tasks")
        if self.workers != "auto" and not (isinstance(self.workers, int) and self.workers >= 1):
            raise UserError(f"workers={self.workers}: auto, or a number of at least 1")
        if not self.agent or set(self.agent) & set("/\\ \n"):
            raise UserError(f"agent={self.agent}: a name without spaces or slashes")
        if self.evaluation.stop_at_return is not None:
            raise UserError("evaluation.stop_at_return=: not in a benchmark, which compares returns at the same steps")
        if self.readme and not self.table:
            raise UserError("readme=: only with table=, the results that go into it")


TOKEN_VERBS = {"fit": ("dataset", "out"), "draw": ("plan",)}
"""The verbs of semagram-tokens, each with those of `dataset`, `plan`, `out` that are its own, the needed one first."""


@dataclass(frozen=True)
class TokensConfig(CodecChoices):
    """The keys of semagram-tokens; `verb` is the subcommand. `seconds`: a chunk's length, at the dataset's rate."""

    verb: str = ""
    dataset: str = ""
    plan: str = ""
    out: str = ""
    seconds: float = ranged(1.0, above=0)

    def __post_init__(self):
        if self.verb not in TOKEN_VERBS:
            raise UserError(f"semagram-tokens{self.verb and ' '}{self.verb}: one of {', '.join(TOKEN_VERBS)}")
        for name in ("dataset", "plan", "out"):
            if (value := getattr(self, name)) and name not in TOKEN_VERBS[self.verb]:
                raise UserError(f"{name}={value}: not of {self.verb}, which has {', '.join(TOKEN_VERBS[self.verb])}")
        if not getattr(self, needed := TOKEN_VERBS[self.verb][0]):
            how = "a LeRobotDataset's folder, as of semagram-record" if needed == "dataset" else "a file of tokens"
            raise UserError(f"{needed}=: {how}")
        CodecChoices.__post_init__(self)


WAYS = "want", "goal", "examples", "reward", "words"
"""The keys of semagram-guide that each say, in a way of its own, what to do."""


@dataclass(frozen=True)
class GuideConfig:
    """The keys of semagram-guide: one of WAYS, `via` or both, or `show`. `library`: of `words`."""

    checkpoint: str = ""
    out: str = ""
    want: str = ""
    via: str = ""
    goal: str = ""
    examples: str = ""
    reward: str = ""
    words: str = ""
    library: str = ""
    fit: bool = True
    updates: int = ranged(1500, low=1)
    weight: float | None = None
    beyond: bool = False
    show: str = ""
    seed: int = ranged(0, low=0, high=2**32 - 1)
    threads: int = ranged(1, low=1)
    plugins: tuple[str, ...] = ()

    def __post_init__(self):
        check_ranges("", self)
        if self.weight is not None:
            check("", self, "weight", low=0, high=1)
        if not self.checkpoint:
            raise UserError("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/walker-walk/<run>")
        said = [name for name in (*WAYS, "show") if getattr(self, name)]
        said += ["via"] if self.via and (self.show or not said) else []
        if len(said) != 1:
            given = f"not {' and '.join(said)}" if said else "none is given"
            raise UserError(f"{said[0] if said else 'want'}=: one of {', '.join(WAYS)}, via or show; {given}")
        if self.library and not self.words:
            raise UserError(f"library={self.library}: only with words=")


@dataclass(frozen=True)
class WhyConfig:
    """The keys of semagram-why: one decision, and `around` before and after it."""

    run: str = ""
    data: str = ""
    live: str = ""
    episode: int = ranged(0, low=0, high=9999)
    step: int = ranged(0, low=0)
    around: int = ranged(2, low=0, high=10)
    out: str = ""
    episodes: int = ranged(10, low=1)
    seed: int = ranged(100, low=0, high=2**32 - 1)
    threads: int = ranged(1, low=1)
    plugins: tuple[str, ...] = ()
    guidance: GuidanceKeys = field(default_factory=GuidanceKeys)

    def __post_init__(self):
        check_ranges("", self)
        if not self.run:
            raise UserError("run=: a run folder or a checkpoint, e.g. run=runs/walker-walk/<run>")
        if self.live and (self.data or self.episode or self.step):
            raise UserError("live=: it has one decision, the newest: without data=, episode=, step=")
