"""Recorded episodes as they would have been with the thing lying elsewhere, or turned: the arm begins where it did.

As in MimicGen (Mandlekar et al. 2023, arXiv 2310.17596), but by kinematics alone: from just before it grasps on, the
hand moves past the thing as it was recorded; before, the joints are led to where that begins. A thing is only laid
where no other recording's lay nearer, so that everywhere one way of grasping is shown, and never two to choose between.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from envs.state_estimator import StateEstimator
from sim.so101.kinematics import ARM, TURN

PARTS = "end_effector_pose", "grasp_state", "joint_positions", "joint_velocities", "object_offset", "object_pose"
"""What a state has to tell."""
NEAR_M = 0.05
"""How far from the thing the hand is when it begins to move past it as recorded."""
AWAY_M, ROUND_RAD, TURNED_RAD = 0.06, 1.5, 0.6
"""At most by how much a thing is moved to or from the arm, carried around it, and turned."""
ALIKE_M = 0.1
"""How far a thing is moved to be as unlike as after a turn by a radian."""
QUARTER = math.pi / 2
"""After such a turn a thing looks the same: it is a cube."""
TRIES, EVERY, ITERATIONS, MISS_M = 300, 8, 2, 0.001
"""Places drawn at most; the joints are solved for at every so many-th step, in so many steps of Gauss and Newton; how
far the hand may be off."""


@dataclass(frozen=True)
class Lying:
    """How a thing lies: metres from the first joint's axis, its direction, and its orientation from there, in rad."""

    away: float
    direction: float
    yaw: float

    def unlike(self, other: "Lying") -> float:
        """Return how differently two things lie as the arm sees it, in rad."""
        return math.hypot(math.remainder(self.yaw - other.yaw, QUARTER), (self.away - other.away) / ALIKE_M)


@dataclass(frozen=True)
class Elsewhere:
    """Lays the thing of episodes elsewhere. `at`: where in a state (S,) its parts are, by name, as `Nearby` has them.

    `lying`: how it lies in all of the episodes, at `hz`.
    """

    at: dict[str, list[int]]
    estimator: StateEstimator
    hz: float
    lying: Sequence[Lying]

    @classmethod
    def of(
        cls, labels: Sequence[str], estimator: StateEstimator, hz: float, states: Sequence[np.ndarray]
    ) -> "Elsewhere":
        """Prepare for episodes whose states (K, S) have these labels."""
        at = dict[str, list[int]]()
        for i, label in enumerate(labels):
            at.setdefault(label.partition("[")[0], []).append(i)
        blank = cls(at, estimator, hz, [])
        if not {*PARTS} <= {*at}:
            return blank
        return cls(at, estimator, hz, [blank.lies(state) for state in states if blank.near(state)])

    def moved(
        self, state: np.ndarray, before: np.ndarray, goals: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return states (K, S) and joint targets (T, 6), before and after each step, with the thing elsewhere.

        As they were, if it is never grasped or no place is found that the arm reaches in the same way.
        """
        if not self.lying:
            return state, before, goals
        near = self.near(state)
        was, round_all = self.lies(state), np.array([(each.away, each.direction) for each in self.lying])
        targets, low, high = self.estimator.targets, round_all.min(0), round_all.max(0)
        for _ in range(TRIES if near else 0):
            away, round_, turn = rng.uniform(-1, 1, 3) * [AWAY_M, ROUND_RAD, TURNED_RAD]
            now = Lying(was.away + away, was.direction + round_, was.yaw + turn)
            where = np.array([now.away, now.direction])
            if (
                (where < low).any()
                or (where > high).any()
                or any(other.unlike(now) < was.unlike(now) for other in self.lying)
            ):
                continue
            shift = self._shift(state, near, was, now)
            if shift is None:
                continue
            there = goals + shift[1:]
            if ((targets.low - 1e-3 <= there) & (there <= targets.high + 1e-3)).all():
                return self._seen(state, shift, was, now, int(rng.integers(4))), before + shift[:-1], there
        return state, before, goals

    def lies(self, state: np.ndarray) -> Lying:
        """Return how the thing lies at the beginning of an episode's states (K, S)."""
        axis, _ = self.estimator.first_axis
        pose = state[0, self.at["object_pose"]]
        (x, y), (w, a, b, c) = pose[:2] - axis, pose[3:]
        direction = math.atan2(y, x)
        return Lying(math.hypot(x, y), direction, math.atan2(2 * (w * c + a * b), 1 - 2 * (b * b + c * c)) - direction)

    def near(self, state: np.ndarray) -> int:
        """Return the step from which on the hand moves past the thing as recorded; 0 if it never grasps it."""
        hand, thing = (state[:, self.at[part][:3]] for part in ("end_effector_pose", "object_pose"))
        before = np.arange(len(state)) < (state[:, self.at["grasp_state"][0]] > 0.5).argmax()
        return int((before & (np.linalg.norm(hand - thing, axis=1) > NEAR_M)).nonzero()[0].max(initial=0))

    def _shift(self, state: np.ndarray, near: int, was: Lying, now: Lying) -> np.ndarray | None:
        """Return by how much the joints (K, 6) differ then, in rad, or None if the hand cannot move like that."""
        joints, (_, sign) = state[:, self.at["joint_positions"]], self.estimator.first_axis
        round_, turn = now.direction - was.direction, now.yaw - was.yaw
        guess = np.array([sign * round_, 0, 0, 0, -turn, 0])
        knots = np.unique([*range(near, len(state), EVERY), len(state) - 1])
        found = np.zeros((len(knots), 6))
        for i, t in enumerate(knots):
            place, axes = _posed(self.estimator.hand(joints[t]))
            wanted = self._laid(place, was, now), _about(round_) @ axes[:, 2], _about(round_ + turn) @ axes[:, 0]
            guess = found[i] = self._solved(joints[t] + guess, wanted) - joints[t]
            if np.abs(_posed(self.estimator.hand(joints[t] + guess))[0] - wanted[0]).max() > MISS_M:
                return None
        shift = np.stack([np.interp(np.arange(len(state)), knots, each) for each in found.T], 1)
        left = np.linalg.norm(joints[: near + 1, :ARM] - joints[near, :ARM], axis=1)
        led = np.maximum.accumulate(1 - left / max(left[0], 1e-6)).clip(0)
        shift[: near + 1] = led[:, None] * found[0]
        return shift

    def _solved(self, joints: np.ndarray, wanted: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return joints (6,), near those given, that bring the hand to a place, its axes as near as five joints can."""

        def off(joints: np.ndarray) -> np.ndarray:
            place, axes = _posed(self.estimator.hand(joints))
            return np.concatenate(
                [1e3 * (place - wanted[0]), TURN * (axes[:, 2] - wanted[1]), TURN * (axes[:, 0] - wanted[2])]
            )

        for _ in range(ITERATIONS):
            now, small = off(joints), 1e-4
            slopes = np.stack([(off(joints + small * unit) - now) / small for unit in np.eye(6)[:ARM]], 1)
            joints = joints.copy()
            joints[:ARM] -= np.linalg.solve(slopes.T @ slopes + 0.1 * np.eye(ARM), slopes.T @ now)
        return joints

    def _laid(self, place: np.ndarray, was: Lying, now: Lying) -> np.ndarray:
        """Return places (..., 3) moved like the thing."""
        axis, _ = self.estimator.first_axis
        from_, to = (
            np.array([*(axis + each.away * np.array([math.cos(each.direction), math.sin(each.direction)])), 0])
            for each in (was, now)
        )
        angle = now.direction - was.direction + now.yaw - was.yaw
        return (place - from_) @ _about(angle).T + to

    def _seen(self, state: np.ndarray, shift: np.ndarray, was: Lying, now: Lying, quarters: int) -> np.ndarray:
        """Return the states with the joints that far off and the thing elsewhere, turned by so many quarters, too."""
        seen, at = state.copy(), self.at
        hand, thing = at["end_effector_pose"], at["object_pose"]
        seen[:, at["joint_positions"]] += shift
        seen[:, at["joint_velocities"]] += np.gradient(shift, axis=0) * self.hz
        seen[:, hand] = [self.estimator.hand(joints) for joints in seen[:, at["joint_positions"]]]
        seen[:, hand[3:]] *= np.where((seen[:, hand[3:]] * state[:, hand[3:]]).sum(1) < 0, -1, 1)[:, None]
        seen[:, thing[:3]] = self._laid(state[:, thing[:3]], was, now)
        angle, turned = now.direction - was.direction + now.yaw - was.yaw + quarters * QUARTER, np.zeros(4)
        for row, pose in zip(seen, state[:, thing], strict=True):
            mujoco.mju_mulQuat(turned, np.array([math.cos(angle / 2), 0, 0, math.sin(angle / 2)]), pose[3:])
            row[thing[3:]] = turned
        seen[:, at["object_offset"]] += (seen - state)[:, thing[:3]] - (seen - state)[:, hand[:3]]
        return seen


def _about(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about the vertical."""
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def _posed(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place (3,) and the axes, as columns (3, 3), of a pose (7,)."""
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, pose[3:])
    return pose[:3], axes.reshape(3, 3)
