"""Scripted experts for the SO-101's tasks: they look at the scene once and say every joint target of an episode.

They are seeded and vary: how fast, from where, how high, which side of a cube. No target moves faster than the safety
gate's normal limits let it, so that what is recorded is what the script meant. A movement begins before the last one
has ended (as people's do: Flash and Henis 1991, J. Cogn. Neurosci. 3(3)): where an arm rests on its way, whoever learns
from it by what it sees does not know when to go on, and stays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np

from sim import so101
from sim.demonstrations import minimum_jerk
from sim.so101_reach import ARM, DOWN, Pose, Reach, Reached
from sim.so101_tasks import SCRIPTED

RATES = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 3.6])  # rad/s, rad/s^2: a little below the gate's normal limits
ACCELERATIONS = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 17.0])
PEAK_RATE, PEAK_ACCELERATION = 1.875, 5.7735  # of a movement by 1 in 1 s with the least jerk
READY = np.array([0.0, -0.4, 0.5, 1.1, 0.0])  # before the arm, the hand pointing down: where solving begins
OFF_FIXED_JAW_M = 0.0045  # beside a cube's middle, so that the fixed finger's 20 mm end 3 mm from its face
LOWEST_M = 0.008  # of the fingertips above the table
OPEN, HOLD = (0.75, 0.95), -0.1  # rad of the gripper: before a grasp, and what closes on anything


class Unreachable(ValueError):
    """The object lies where the arm cannot take it as the script would."""


@dataclass(frozen=True)
class Movement:
    """By `away` (6,) in rad with the least jerk, from `begins` on for `lasts` seconds."""

    begins: float
    lasts: float
    away: np.ndarray

    def at(self, times: np.ndarray) -> np.ndarray:
        """How far it has come at times (T,), (T, 6)."""
        return minimum_jerk(np.clip((times - self.begins) / self.lasts, 0, 1))[:, None] * self.away


class Script:
    """Targets in rad, one a control step, made movement by movement from where the arm stands."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        self.env, self.rng = env.unwrapped, rng
        self.low, self.high = so101.limits(env)
        self.reach = Reach(self.env.model, self.low, self.high)
        self.pace = rng.uniform(0.7, 1.0)  # of the fastest that is allowed
        self.start = self.at = np.asarray(self.env.commanded, float)
        self.movements: list[Movement] = []
        self.end = 0.0  # seconds

    def move(
        self, joints: np.ndarray | None = None, gripper: float | None = None, slower: float = 1.0, early: float = 0.0
    ) -> None:
        """Go to the joints (5,) and the gripper's angle with the least jerk; what is None stays.

        It begins before the last movement ends, by the share `early` of the shorter of the two.
        """
        goal = self.at.copy()
        if joints is not None:
            goal[:ARM] = joints
        if gripper is not None:
            goal[ARM] = gripper
        goal = np.clip(goal, self.low, self.high)
        away = np.abs(goal - self.at)
        pace = self.pace * slower
        seconds = max(
            np.max(PEAK_RATE * away / (RATES * pace)), np.max(np.sqrt(PEAK_ACCELERATION * away / ACCELERATIONS / pace))
        )
        seconds = max(seconds, self.env.control_dt)
        if self.movements:
            self.end -= early * min(self.movements[-1].lasts, seconds)
        self.movements.append(Movement(self.end, seconds, goal - self.at))
        self.end += seconds
        self.at = goal

    def rows(self) -> np.ndarray:
        """All targets (T, 6), of which each lies between places that the movements go to.

        Slower as a whole where two movements together would go faster than one may.
        """
        dt = self.env.control_dt
        steps = np.arange(1, int(np.ceil(self.end / dt)) + 1)
        rates = np.diff(self._at(np.concatenate([[0, 0], steps * dt])), axis=0) / dt
        over = max(np.max(np.abs(rates) / RATES), np.sqrt(np.max(np.abs(np.diff(rates, axis=0)) / dt / ACCELERATIONS)))
        slower = max(1.0, over)
        steps = np.arange(1, int(np.ceil(self.end * slower / dt)) + 1)
        return self._at(steps * dt / slower)

    def _at(self, times: np.ndarray) -> np.ndarray:
        return self.start + sum(movement.at(times) for movement in self.movements)

    def solve(self, pose: Pose, start: np.ndarray | None = None, most_m: float = 0.004) -> Reached:
        """The joints of a pose, from `start` (5,), by default from before the arm. Raises Unreachable."""
        start = READY if start is None else start
        found = self.reach.solve(pose, start)
        if found.miss_m > most_m:
            raise Unreachable(f"{np.round(pose.place, 3).tolist()} m is {found.miss_m * 1e3:.0f} mm out of reach")
        return found

    def object(self) -> np.ndarray:
        """The pose (7,) of what the task is about: place in metres, quaternion."""
        pose = so101.components(self.env)["object_pose"]
        return self.env.state()[pose].astype(float)


def touch(script: Script) -> None:
    """Bring the closed fingertips to just above the object."""
    rng = script.rng
    goal = script.object()[:3] + rng.uniform([-0.008, -0.008, 0.018], [0.008, 0.008, 0.03])
    script.move(script.solve(_leaning(goal, rng), most_m=0.015).joints)


def pick_lift(script: Script) -> None:
    """Over the cube with open fingers, down, close, and lift it."""
    rng, cube = script.rng, script.object()
    place = cube[:3].copy()
    place[2] = max(LOWEST_M, place[2] - rng.uniform(0.0, 0.003))
    grasp = _grasp(script, place, cube[3:])
    opened = rng.uniform(*OPEN)
    script.move(_over(script, grasp, rng.uniform(0.045, 0.07)), opened)
    script.move(grasp.joints, slower=0.7, early=0.3)
    script.move(gripper=HOLD, slower=0.5, early=0.2)
    script.move(_over(script, grasp, rng.uniform(0.085, 0.11)), slower=0.6, early=0.2)


EXPERTS: dict[str, Callable[[Script], None]] = dict(zip(SCRIPTED, (touch, pick_lift), strict=True))
"""By the task's name."""


def targets(env: gymnasium.Env, task: str, rng: np.random.Generator) -> np.ndarray:
    """All targets (T, 6) in rad of an episode that has just been reset. Raises Unreachable."""
    script = Script(env, rng)
    EXPERTS[task](script)
    return script.rows()


def _leaning(place: np.ndarray, rng: np.random.Generator) -> Pose:
    """Fingers down, leaning outwards the further the place is away, and a little as chance has it."""
    distance = np.hypot(*place[:2])
    lean = np.clip((distance - 0.22) / 0.2, 0.0, 0.9) + rng.uniform(-0.15, 0.15)
    outwards = np.array([place[0], place[1], 0.0]) / max(distance, 1e-6)
    return Pose(place, np.cos(lean) * DOWN + np.sin(lean) * outwards)


def _grasp(script: Script, place: np.ndarray, turned: np.ndarray) -> Reached:
    """The best of the four ways to take a cube by two opposite faces, its middle at `place`, `turned` (quaternion)."""
    w, x, y, z = turned
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    leaning = _leaning(place, script.rng)
    found = []
    for quarter in range(4):
        angle = yaw + quarter * np.pi / 2
        across = np.array([np.cos(angle), np.sin(angle), 0.0])
        pose = Pose(place - OFF_FIXED_JAW_M * across, leaning.approach, across)
        found.append((script.reach.solve(pose, READY), pose))
    best, pose = min(found, key=lambda pair: pair[0].cost)
    return script.solve(pose, best.joints)


def _over(script: Script, grasp: Reached, height: float) -> np.ndarray:
    """The joints (5,) with which the hand is so much higher, in metres, and lies as in the grasp."""
    place, axes = script.reach.hand(grasp.joints)
    return script.solve(Pose(place - height * DOWN, axes[:, 2], axes[:, 0]), grasp.joints, most_m=0.03).joints
