"""The SO-101's tasks as learning environments: named state components, joint-target actions, success in `info`."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import suite
from policies.settings import EXPERT
from sim.so101.joints import GRIPPER, JOINTS, Targets, Units
from sim.so101.tasks import ABSOLUTE, ANYWHERE, FULL, REST
from worldmodel.errors import UserError
from worldmodel.settings import Via

if TYPE_CHECKING:
    from envs.settings import TaskConfig
    from sim.so101.experts import Expert
    from sim.so101.scene import VariedArm
    from sim.variation import Variation

LAG = "target_lag"
STREAM = 102  # random stream for starts
ENCODED = ("joint_positions", "joint_velocities", "end_effector_pose")
"""State components an arm knows by itself: encoder readings, and the hand pose they imply."""

POSITIONS = {f"{joint}.pos": "deg" if joint != GRIPPER else "" for joint in JOINTS}
"""The joints' positions as LeRobot's robots name them, and their units."""
SHARE, KEPT_RAD = 0.7, 0.05  # how many episodes begin anywhere, and how far from the ends of the joints' ranges


class Diverged(ArithmeticError):
    """MuJoCo's simulation of the arm became unstable."""


class JointTargets(gymnasium.Wrapper):
    """Wrap a `sim.so101.scene` environment to take actions (6,) in [-1, 1], interpreted by `sim.so101.joints`.

    Observations: a Dict of so101-nexus's own components plus `target_lag` (6,): the latest joint target minus the
    joint positions, in rad, which a delta action moves. With `state="joints"`, only the components in ENCODED and
    `target_lag`. `info` holds `is_success` and, if the options of the last reset asked for it (`{EXPERT: True}`),
    EXPERT: the action (6,), float64, that the task's expert would take from here, whoever has acted so far; NaN where
    the expert cannot act.

    `reset` and `step` raise Diverged if the physics diverged.
    """

    def __init__(self, env: "VariedArm", task: str, targets: Targets, state: str = FULL, start: str = REST):
        """Wrap `env`, an environment of `task`; `state` and `start`: of STATES and STARTS (`sim.so101.tasks`)."""
        from sim.so101.scene import components

        super().__init__(env)
        self.arm, self.task, self.targets = env, task, targets
        self._units, self._start, self._rng = Units(targets.low, targets.high), start, np.random.default_rng()
        self.target = np.zeros(6)  # rad
        self.success = False
        self._asked = False
        self._expert: Expert | None = None
        self._parts = known(components(env), state)
        sizes = {name: part.stop - part.start for name, part in self._parts.items()} | {LAG: 6}
        boxes: dict[str, spaces.Space] = {
            name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in sizes.items()
        }
        self.observation_space = spaces.Dict(boxes)
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; the target starts at the arm's commanded position. The seed also seeds the expert."""
        own = dict(options or {})
        self._asked = bool(own.pop(EXPERT, False))
        if self._start == ANYWHERE:
            self._rng = self._rng if seed is None else np.random.default_rng([seed, STREAM])
            if self._rng.random() < SHARE:
                own["init_qpos"] = self._rng.uniform(self.targets.low + KEPT_RAD, self.targets.high - KEPT_RAD)
        observation, info = self.env.reset(seed=seed, options=own or None)
        self.target = self.arm.commanded
        self._expert = self._begun(seed) if self._asked else None
        return self.observe(observation), self._info(info)

    def step(self, action: np.ndarray):
        """Advance one control step, with `action` converted to the next joint target."""
        self.target = self.targets.next(self.target, action)
        observation, reward, terminated, truncated, info = self.env.step(self.target.astype(np.float32))
        return self.observe(observation), float(reward), terminated, truncated, self._info(info)

    def _info(self, info: dict) -> dict:
        self.success = bool(info["success"])
        success = {"is_success": self.success}
        if not self._asked:
            return success
        from sim.so101.experts import Unreachable

        action = np.full(6, np.nan)
        if self._expert is not None:
            with contextlib.suppress(Unreachable):
                action = self.targets.action(self.target, self._expert.target())
        return success | {EXPERT: action}

    def _begun(self, seed: int | None) -> "Expert | None":
        """Create the task's expert for this episode, or return None if it cannot reach the object."""
        from sim.so101.experts import EXPERTS, Unreachable

        try:
            return EXPERTS[self.task](self.arm, np.random.default_rng(seed))
        except Unreachable:
            return None

    def quantities(self) -> dict[str, float]:
        """Return the quantities not in MuJoCo's model: whether the task is solved; `<joint>.pos` in LeRobot's units."""
        joints = self._units.from_rad(self.arm.data.qpos[: len(JOINTS)]).tolist()
        return {"success": float(self.success)} | dict(zip(POSITIONS, joints, strict=True))

    def observe(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Name the components of so101-nexus's observation (S,). Raises Diverged."""
        from sim.so101.scene import diverged

        if diverged(self.arm):
            raise Diverged("MuJoCo found a position, velocity or acceleration that is not finite or too large")
        return seen(observation, self._parts, self.target)


def known(parts: dict[str, slice], state: str) -> dict[str, slice]:
    """Select the so101-nexus components that belong to the given `state` setting."""
    return {name: part for name, part in parts.items() if state == FULL or name in ENCODED}


def seen(observation: np.ndarray, parts: dict[str, slice], target: np.ndarray) -> dict[str, np.ndarray]:
    """Split so101-nexus's observation (S,) into named components and add the lag behind `target` (6,), in rad."""
    named = {name: observation[part] for name, part in parts.items()}
    return named | {LAG: (target - named["joint_positions"]).astype(np.float32)}


def labels(parts: dict[str, slice]) -> list[str]:
    """Name each number of the state (S,) that `vector` returns."""
    sizes = {name: part.stop - part.start for name, part in parts.items()} | {LAG: 6}
    return [f"{name}[{i}]" for name in sorted(sizes) for i in range(sizes[name])]


def vector(observation: np.ndarray, parts: dict[str, slice], target: np.ndarray) -> np.ndarray:
    """Return the state (S,) float32 as a learning environment flattens it; arguments as for `seen`."""
    named = seen(observation, parts, target)
    return np.concatenate([named[name] for name in sorted(named)]).astype(np.float32)


def passed(
    points: Sequence[tuple[str, float, float, float]], env: gymnasium.Env, begun: Mapping[str, Sequence]
) -> tuple[Via, ...]:
    """Say by which actions of `env`, an environment of the arm, its joints' targets pass via-points, by time.

    `points`: of each a joint, the value and how far it may be off (in LeRobot's units), seconds. `begun`: the range of
    values at which episodes began. Raises UserError for what is out of reach at `Targets.step` a step.
    """
    targets, labels, hz = env.get_wrapper_attr("targets"), env.metadata["labels"], env.metadata["render_fps"]
    units, limit, found = Units(targets.low, targets.high), env.metadata["episode_limit"], list[Via]()
    lows, highs, rads = units.from_rad(targets.low), units.from_rad(targets.high), units.spans(np.ones(len(JOINTS)))
    last = {name: (*begun.get(name, ends), 0) for name, *ends in zip(POSITIONS, lows, highs, strict=True)}
    for name, value, half, seconds in sorted(points, key=lambda point: point[3]):
        joint, step, (least, most, before) = [*POSITIONS].index(name), round(seconds * hz), last[name]
        text, low, high = f"via=: {name} = {value:g} at {seconds:g} s", lows[joint], highs[joint]
        away = max(value - half - float(most), float(least) - value - half)
        reach = (step - before) * targets.step[joint] / rads[joint]
        if not low <= value <= high:
            raise UserError(f"{text}: its range is {low:.4g} to {high:.4g}")
        if not 1 <= step <= limit:
            raise UserError(f"{text}: an episode lasts {limit / hz:g} s, and a control step {1 / hz:.2g} s")
        if away > reach:
            since = f"{before / hz:.3g} s" if before else "where episodes begin"
            raise UserError(f"{text}: {away:.3g} from {since}, and it moves at most {reach:.3g} until then")
        last[name] = value - half, value + half, step
        goal, state = units.to_rad(np.full(len(JOINTS), value))[joint], list[int]()
        if targets.control == ABSOLUTE:
            span = (targets.high - targets.low)[joint] / 2
            goal = goal - targets.low[joint] - span
        else:
            span, places = targets.step[joint], [f"joint_positions[{joint}]", f"{LAG}[{joint}]"]
            if not {*places} <= {*labels}:
                raise UserError(f"via=: the state lacks {' or '.join(places)}, which tell where the target is")
            state = [labels.index(place) for place in places]
        said = f"{name} = {value:.4g} ± {half:.4g} {POSITIONS[name]}".rstrip() + f" at {seconds:.4g} s"
        deviation = half * rads[joint] / span / 2  # +- is two of them
        found.append(Via(said, step, joint, float(goal / span), float(deviation), float(span), tuple(state)))
    return tuple(found)


def build(task: "TaskConfig", variation: "Variation | None" = None) -> gymnasium.Env:
    """Create the environment of one of the arm's tasks, without a time limit; `variation` randomises each episode."""
    with suite.importing():
        from sim.so101 import scene as so101
    with suite.quiet():
        env = so101.build(task.name, task.arm.control_hz, task.arm.end_on_success, variation, task.arm.acceleration)
    low, high = so101.limits(env)
    targets = Targets.at(task.arm.control_hz, low, high, task.arm.control)
    return JointTargets(env, task.name, targets, task.arm.state, task.arm.start)
