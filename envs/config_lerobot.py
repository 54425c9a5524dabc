"""Semagram's tasks as LeRobot's commands know environments: `--env.type=semagram --env.task=so101-touch`."""

import functools
from dataclasses import dataclass, field, fields, make_dataclass

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from envs.senses import IMAGE_SIZE, STATE_NAME, Senses, check_image_size, key
from envs.settings import TaskConfig
from sim.variation import PRESETS
from worldmodel.mistakes import Mistake

AGENT_POS, PIXELS = "agent_pos", "pixels"

OWN = [each for each in fields(TaskConfig) if each.name != "name"]  # which LeRobot calls `task`
TaskKeys = make_dataclass("TaskKeys", [(each.name, each.type, field(default=each.default)) for each in OWN])


@EnvConfig.register_subclass("semagram")
@dataclass
class SemagramEnv(TaskKeys, EnvConfig):
    """A task by its name, with the keys of semagram-train: `--env.max_control_steps` is its `task.max_control_steps`.

    `randomise`: off, mild or strong. `senses`, `image_size`: what is observed, as in semagram-train; words are there in
    any case, as LeRobot's task. The frames of a video are `height` x `width` pixels.
    """

    task: str | None = "so101-touch"
    randomise: str = "off"
    senses: list[str] = field(default_factory=lambda: [STATE_NAME])
    image_size: int = IMAGE_SIZE
    height: int = 240
    width: int = 320

    def __post_init__(self):
        """Look at the task for its sizes. Raises ValueError for one that can't be made; one line."""
        if self.randomise not in PRESETS:
            raise Mistake(f"env.randomise={self.randomise}: one of {', '.join(PRESETS)}")
        if self.task == "multi":
            raise Mistake("env.task=multi: one of its tasks at a time, e.g. --env.task=walker-walk")
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
        """The task."""
        return TaskConfig(self.task, **{each.name: getattr(self, each.name) for each in OWN})

    @property
    def perceived(self) -> Senses:
        """What is observed."""
        return Senses(self.senses, self.image_size)

    @property
    def gym_kwargs(self) -> dict:
        """None: `create_envs` does not look a task up by a Gymnasium id."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """`n_envs` environments of the task, one after the other or in a process each."""
        from envs.lerobot_view import make

        film = (self.height, self.width)
        one = functools.partial(make, self.settings, PRESETS[self.randomise], self.perceived, film)
        again = {"autoreset_mode": AutoresetMode.SAME_STEP}
        if use_async_envs and n_envs > 1:
            vector = AsyncVectorEnv([one] * n_envs, context="spawn", **again)
        else:
            vector = SyncVectorEnv([one] * n_envs, **again)
        return {self.type: {0: vector}}


@functools.cache
def _sizes(task: TaskConfig, senses: Senses) -> tuple[int, int, float]:
    """Numbers in a state (0: none is observed) and in an action, and control steps a second."""
    from envs.make import make

    env = make(task, senses=senses)
    try:
        states = env.observation_space[OBS_STATE].shape[0] if senses.state else 0
        return states, env.action_space.shape[0], env.metadata["render_fps"]
    finally:
        env.close()
