"""Whether a checkpoint suits an arm: who tells it where objects are, its cameras, its sentence."""

from dataclasses import dataclass

from configs.strict import ConfigError
from envs.instructions import check as check_sentence
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.state_estimator import STILL
from policies.planner_link.messages import LARGEST
from policies.storage.checkpoint import AgentSpec
from robot.arm_options import CAMERAS, REAL, SIM
from robot.arms import configured
from robot.running.settings import RunConfig
from sim.so101.tasks import FULL, TASKS

ROOM_FOR_REST = 1 << 16  # bytes of a message reserved for all but its frames


@dataclass(frozen=True)
class Fit:
    """Checks that a checkpoint for `task` can be run as `config` says."""

    config: RunConfig
    identity: AgentSpec
    task: TaskConfig

    @property
    def senses(self) -> Senses:
        """The senses that the checkpoint perceives."""
        return Senses.of(self.identity.senses)

    @property
    def told(self) -> bool:
        """Whether the checkpoint must be told where the task's objects are: it perceives the full state."""
        return self.senses.state and self.task.state == FULL

    @property
    def sentence(self) -> str:
        """The sentence for the checkpoint: the user's or the task's own; empty without language."""
        return (self.config.sentence or self.task.words) if self.senses.language else ""

    def check(self) -> None:
        """Raise UserError (of settings: ConfigError), in one line, if the checkpoint cannot be run as `config` says."""
        self._check_scene()
        self._check_senses()

    def _check_scene(self) -> None:
        """Raise ConfigError if nothing tells or shows where the task's objects are, or `target` is outside training."""
        config, name = self.config, self.task.name
        if not self.told and not self.senses.cameras:
            raise ConfigError(f"checkpoint={config.checkpoint}: of task.state=joints without a camera: it sees nothing")
        if config.robot == SIM or not self.told:
            return
        if name not in STILL:
            raise ConfigError(
                f"robot={config.robot}: {name} must be told how its things move, which only {SIM} does; "
                f"{', '.join(STILL)} need not, nor does a checkpoint of task.state=joints and cameras"
            )
        if config.robot == REAL and not config.target:
            raise ConfigError("target=: where the task's object is, x, y, z in metres from the arm's base (x forward)")
        if config.target and (why := TASKS[name].untrained(config.target)):
            raise ConfigError(f"target={config.target}: {name} is {why}")

    def _check_senses(self) -> None:
        """Raise ConfigError for wrong cameras, for frames too large to send, or for a sentence without language."""
        config, senses = self.config, self.senses
        through = f"the checkpoint looks through {', '.join(senses.cameras) or 'no camera'}"
        if config.robot == SIM:
            if lacking := [name for name in senses.cameras if name not in CAMERAS]:
                raise ConfigError(f"{through}; {SIM} has {', '.join(CAMERAS)}, not {lacking[0]}")
        elif lacking := [name for name in senses.cameras if name not in config.robot_cameras]:
            example = f"{{{lacking[0]}: {{type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}}}"
            raise ConfigError(f"{through}; say which that is, e.g. 'robot_cameras={example}'")
        elif more := [name for name in config.robot_cameras if name not in senses.cameras]:
            raise ConfigError(f"robot_cameras.{more[0]}: {through}")
        configured(config.robot_cameras)
        frames = len(self.identity.model.vision.frame_lags) * sum(
            3 * high * wide for high, wide in senses.sizes.values()
        )
        if frames > LARGEST - ROOM_FOR_REST:
            raise ConfigError(f"{through}: {frames} bytes at a time; at most {LARGEST - ROOM_FOR_REST} reach a planner")
        if config.sentence and not senses.language:
            raise ConfigError(
                f"sentence={config.sentence}: the checkpoint hears no words; it was trained without language"
            )
        if senses.language:
            check_sentence(self.sentence, "sentence")
