"""The SO-101's tasks as they are learned: a named state, actions that are joint targets, success beside the reward."""

from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import suite
from policies.settings import EXPERT
from sim.so101.targets import Targets
from sim.so101.tasks import FULL

if TYPE_CHECKING:
    from envs.settings import TaskConfig
    from sim.so101.experts import Expert
    from sim.variation import Variation

LAG = "target_lag"
ENCODED = ("joint_positions", "joint_velocities", "end_effector_pose")
"""What an arm knows of itself: by its encoders, and by where they put its hand."""


class Diverged(ArithmeticError):
    """MuJoCo gave up on the arm's state."""


class JointTargets(gymnasium.Wrapper):
    """An environment of `sim.so101.scene` with actions (6,) in [-1, 1], as `sim.so101.targets` reads them.

    Observations: a Dict of so101-nexus's own components, and `target_lag` (6,): the last target less the joints'
    positions, in rad, which a tied action moves; with `state=joints` of the components only ENCODED. `info` holds
    `is_success` and, where a reset's options ask for it (`{EXPERT: True}`), EXPERT: the action (6,) that the task's
    expert would take from here, float64, whoever acted so far; not a number where it cannot do it.

    Raises:
        Diverged: from `reset` or `step`, where the physics did.
    """

    def __init__(self, env: gymnasium.Env, task: str, targets: Targets, state: str = FULL):
        """Take `env` of a task, how its actions are read, and what its state tells (`sim.so101.tasks.STATES`)."""
        from sim.so101.scene import components

        super().__init__(env)
        self.task, self.targets = task, targets
        self.target = np.zeros(6)  # rad
        self._asked, self._expert = False, None
        self._parts = known(components(env), state)
        sizes = {name: part.stop - part.start for name, part in self._parts.items()} | {LAG: 6}
        boxes = {name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in sizes.items()}
        self.observation_space = spaces.Dict(boxes)
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Reset; the first target is where the arm was told to be. The seed also says how the expert does it."""
        own = dict(options or {})
        self._asked = bool(own.pop(EXPERT, False))
        observation, info = self.env.reset(seed=seed, options=own or None)
        self.target = self.unwrapped.commanded
        self._expert = self._begun(seed) if self._asked else None
        return self._see(observation), self._info(info)

    def step(self, action: np.ndarray):
        """One control step with the next target."""
        self.target = self.targets.next(self.target, action)
        observation, reward, terminated, truncated, info = self.env.step(self.target.astype(np.float32))
        return self._see(observation), float(reward), terminated, truncated, self._info(info)

    def _info(self, info: dict) -> dict:
        told = {"is_success": bool(info["success"])}
        if not self._asked:
            return told
        from sim.so101.experts import Unreachable

        unknown = told | {EXPERT: np.full(6, np.nan)}
        if self._expert is None:
            return unknown
        try:
            return told | {EXPERT: self.targets.action(self.target, self._expert.target())}
        except Unreachable:
            return unknown

    def _begun(self, seed: int | None) -> "Expert | None":
        """The task's expert; None where it cannot do it."""
        from sim.so101.experts import Unreachable, expert

        try:
            return expert(self.env, self.task, np.random.default_rng(seed))
        except Unreachable:
            return None

    def _see(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        from sim.so101.scene import diverged

        if diverged(self.env):
            raise Diverged("MuJoCo found a position, velocity or acceleration that is not finite or too large")
        return seen(observation, self._parts, self.target)


def known(parts: dict[str, slice], state: str) -> dict[str, slice]:
    """Of so101-nexus's components those that a state tells."""
    return {name: part for name, part in parts.items() if state == FULL or name in ENCODED}


def seen(observation: np.ndarray, parts: dict[str, slice], target: np.ndarray) -> dict[str, np.ndarray]:
    """What a learner sees, by name, of so101-nexus's observation (S,) while the arm goes to `target` (6,) in rad."""
    named = {name: observation[part] for name, part in parts.items()}
    return named | {LAG: (target - named["joint_positions"]).astype(np.float32)}


def build(task: "TaskConfig", variation: "Variation | None" = None) -> gymnasium.Env:
    """The environment of one of the arm's tasks, without a time limit; each episode varies as `variation` says."""
    with suite.importing():
        from sim.so101 import scene as so101
    with suite.quiet():
        env = so101.build(task.name, task.control_hz, task.end_on_success, variation)
    targets = Targets.at(task.control_hz, *so101.limits(env), task.control)
    return JointTargets(env, task.name, targets, task.state)


def limit(task: "TaskConfig") -> int:
    """The control steps after which an episode of one of the arm's tasks is truncated."""
    from sim.so101.tasks import TASKS

    return round(TASKS[task.name].seconds * task.control_hz)
