"""Semagram's tasks as a LeRobot environment type: `--env.type=semagram --env.task=so101-touch`."""

import functools
from dataclasses import dataclass, field, fields, make_dataclass

from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from envs.senses import IMAGE_SIZE, STATE_NAME, Senses, check_image_size
from envs.settings import TaskConfig
from envs.spaces import by_key
from sim.variation import PRESETS
from worldmodel.errors import UserError
from worldmodel.senses import key

AGENT_POS, PIXELS = "agent_pos", "pixels"

OWN = [each for each in fields(TaskConfig) if each.name != "name"]  # LeRobot calls the name `task`
TaskKeys = make_dataclass("TaskKeys", [(each.name, each.type, field(default=each.default)) for each in OWN])


@EnvConfig.register_subclass("semagram")
@dataclass
class SemagramEnv(TaskKeys, EnvConfig):  # type: ignore[valid-type, misc]  # a base made at run time
    """LeRobot's configuration of a task, with semagram-train's keys (`--env.max_control_steps` for `task.max_...`).

    `randomise`: off, mild or strong. `senses`, `image_size`: what is observed, as in semagram-train; the sentence is
    always available, as LeRobot's task description. Video frames are `height` x `width` pixels.
    """

    task: str | None = "so101-touch"
    randomise: str = "off"
    senses: list[str] = field(default_factory=lambda: [STATE_NAME])
    image_size: int = IMAGE_SIZE
    height: int = 240
    width: int = 320

    def __post_init__(self):
        """Build the task once to read its sizes. Raises ValueError, one line, if it cannot be made."""
        if self.randomise not in PRESETS:
            raise UserError(f"env.randomise={self.randomise}: one of {', '.join(PRESETS)}")
        if self.task == "multi":
            raise UserError("env.task=multi: one of its tasks at a time, e.g. --env.task=walker-walk")
        senses = self.perceived
        if self.image_size != IMAGE_SIZE:
            check_image_size(self.senses)
        states, actions, rate_hz = _sizes(self.settings, senses)
        self.fps = round(rate_hz)
        self.features = {ACTION: PolicyFeature(FeatureType.ACTION, (actions,))}
        self.features_map = {ACTION: ACTION}
        if states:
            self.features[AGENT_POS] = PolicyFeature(FeatureType.STATE, (states,))
            self.features_map[AGENT_POS] = OBS_STATE
        for camera, size in senses.sizes.items():
            name = f"{PIXELS}/{camera}"
            self.features[name] = PolicyFeature(FeatureType.VISUAL, (*size, 3))
            self.features_map[name] = key(f"images.{camera}")

    @property
    def settings(self) -> TaskConfig:
        """The task's settings. Raises ValueError, one line, if they are not valid."""
        if self.task is None:
            raise UserError("env.task=: a task is needed, e.g. --env.task=walker-walk")
        return TaskConfig(self.task, **{each.name: getattr(self, each.name) for each in OWN})

    @property
    def perceived(self) -> Senses:
        """The observed senses."""
        return Senses(self.senses, self.image_size)

    @property
    def gym_kwargs(self) -> dict:
        """Empty: `create_envs` does not look up a Gymnasium id, so it needs no keyword arguments."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """Create a vector of `n_envs` environments of the task, stepped serially or in one process each."""
        from envs.lerobot_view import make

        film = (self.height, self.width)
        one = functools.partial(make, self.settings, PRESETS[self.randomise], self.perceived, film)
        again = AutoresetMode.SAME_STEP
        vector: VectorEnv
        if use_async_envs and n_envs > 1:
            vector = AsyncVectorEnv([one] * n_envs, context="spawn", autoreset_mode=again)
        else:
            vector = SyncVectorEnv([one] * n_envs, autoreset_mode=again)
        return {self.type: {0: vector}}


@functools.cache
def _sizes(task: TaskConfig, senses: Senses) -> tuple[int, int, float]:
    """Return the state size (0 if it is not observed), the action size and the control steps per second."""
    from envs.make import make

    env = make(task, senses=senses)
    try:
        states = spaces.flatdim(by_key(env)[OBS_STATE]) if senses.state else 0
        return states, spaces.flatdim(env.action_space), env.metadata["render_fps"]
    finally:
        env.close()
