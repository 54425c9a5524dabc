"""Recorded episodes as they would have been with the thing lying elsewhere, or turned: the arm begins where it did.

As in MimicGen (Mandlekar et al. 2023, arXiv 2310.17596), but by kinematics alone: from just before it grasps on, the
hand moves past the thing as it was recorded; before, the joints are led to where that begins. A thing is only laid
where no other recording's lay nearer, so that everywhere one way of grasping is shown, and never two to choose between.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from configs.runs.nearby import ANGLES, GRASP, HAND, OFFSET, SPEEDS, THING, about_the_vertical, nearest, places
from envs.state_estimator import StateEstimator
from sim.so101.kinematics import ARM, Pose

PARTS = HAND, THING, ANGLES, SPEEDS, OFFSET, GRASP  # what a state has to tell
NEAR_M = 0.05
"""How far from the thing the hand is when it begins to move past it as recorded."""
FARTHEST = np.array([0.06, 1.5, 0.6])
"""At most by how much a thing is moved to or from the arm (m), carried around it, and turned (rad)."""
ALIKE_M, QUARTER = 0.1, math.pi / 2
"""How far a thing is moved to be as unlike as after a turn by a radian; the turn after which a cube looks the same."""
TRIES, EVERY, ITERATIONS, MISS_M = 100, 8, 2, 0.001
"""Places drawn at most; at every so many-th step the joints are solved for, in so many steps of Gauss and Newton; how
far the hand may be off."""


@dataclass(frozen=True)
class Elsewhere:
    """Lays the thing of episodes elsewhere. `at`: where a state (S,) has its parts, by name; `hz`: of control.

    `lying` (N, 3): how it lies in all of the episodes, seen from the first joint's axis: metres away, the direction,
    and its orientation from there, in rad.
    """

    at: dict[str, list[int]]
    estimator: StateEstimator
    hz: float
    lying: np.ndarray

    @classmethod
    def of(
        cls, labels: Sequence[str], estimator: StateEstimator, hz: float, states: Iterable[np.ndarray]
    ) -> "Elsewhere":
        """Prepare for episodes whose states (K, S) have these labels."""
        at = {part: places(labels, part) for part in PARTS}
        some = cls(at, estimator, hz, np.zeros((0, 3)))
        lying = [some.lies(state) for state in states if all(at.values()) and some.near(state)]
        return cls(at, estimator, hz, np.array(lying)) if lying else some

    def moved(
        self, state: np.ndarray, before: np.ndarray, goals: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return states (K, S) and joint targets (T, 6), before and after each step, with the thing elsewhere.

        As they were, if it is never grasped or no place is found at which the arm can do likewise.
        """
        if not len(self.lying) or not (near := self.near(state)):
            return state, before, goals
        was, targets = self.lies(state), self.estimator.targets
        least, most = was - FARTHEST, was + FARTHEST
        least[:2] = np.maximum(least, self.lying.min(0))[:2]  # of turns there is a whole circle
        most[:2] = np.minimum(most, self.lying.max(0))[:2]
        for _ in range(TRIES):
            now = rng.uniform(least, most)
            if _unlike(now, self.lying).min() < _unlike(now, was):
                continue
            shift = self._shift(state, near, was, now)
            if shift is None or ((goals + shift[1:] < targets.low) | (goals + shift[1:] > targets.high))[:, :ARM].any():
                continue
            return self._seen(state, shift, was, now, int(rng.integers(4))), before + shift[:-1], goals + shift[1:]
        return state, before, goals

    def lies(self, state: np.ndarray) -> np.ndarray:
        """Return how the thing lies (3,) at the beginning of an episode's states (K, S), as in `lying`."""
        pose = state[0, self.at["object_pose"]]
        (x, y), yaw = pose[:2] - self.estimator.first_axis[0], 2 * math.atan2(pose[6], pose[3])
        return np.array([math.hypot(x, y), math.atan2(y, x), yaw - math.atan2(y, x)])

    def near(self, state: np.ndarray) -> int:
        """Return the step from which on the hand moves past the thing as recorded; 0 if it never grasps it."""
        hand, thing = (state[:, self.at[part][:3]] for part in (HAND, THING))
        before = np.arange(len(state)) < (state[:, self.at["grasp_state"][0]] > 0.5).argmax()
        return int((before & (np.linalg.norm(hand - thing, axis=1) > NEAR_M)).nonzero()[0].max(initial=0))

    def _shift(self, state: np.ndarray, near: int, was: np.ndarray, now: np.ndarray) -> np.ndarray | None:
        """Return how far off the joints (K, 6) are then, in rad, or None if the hand cannot move like that."""
        joints, (_, round_, turn) = state[:, self.at["joint_positions"]], now - was
        off = np.array([self.estimator.first_axis[1] * round_, 0, 0, 0, turn, 0])
        knots = np.append(np.arange(near, len(state) - 1, EVERY), len(state) - 1)
        found = np.zeros((len(knots), 6))
        for i, t in enumerate(knots):
            place, axes = _posed(self.estimator.hand(joints[t]))
            wanted = Pose(self._laid(place, was, now), _about(round_) @ axes[:, 2], _about(round_ + turn) @ axes[:, 0])
            off = found[i] = self._solved(joints[t] + off, wanted) - joints[t]
            if np.abs(_posed(self.estimator.hand(joints[t] + off))[0] - wanted.place).max() > MISS_M:
                return None
        left = np.linalg.norm((joints[: near + 1] - joints[near])[:, :ARM], axis=1)
        led = np.maximum.accumulate(1 - left / max(left[0], 1e-6)).clip(0)
        shift = np.stack([np.interp(np.arange(len(state)), knots, each) for each in found.T], 1)
        shift[: near + 1] = led[:, None] * found[0]
        return shift

    def _solved(self, joints: np.ndarray, wanted: Pose) -> np.ndarray:
        """Return joints (6,), near those given, that bring the hand to a place, its axes as near as five joints can.

        They are so near already that two steps do, where `sim.so101.kinematics.Reach.solve` takes many.
        """

        def miss(joints: np.ndarray) -> np.ndarray:
            return wanted.errors(*_posed(self.estimator.hand(joints)))

        for _ in range(ITERATIONS):
            now, small = miss(joints), 1e-4 * np.eye(6)[:ARM]
            slopes = np.stack([miss(joints + each) - now for each in small], 1) / 1e-4
            joints = joints - np.append(np.linalg.solve(slopes.T @ slopes + 0.1 * np.eye(ARM), slopes.T @ now), 0)
        return joints

    def _laid(self, place: np.ndarray, was: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Return places (..., 3) moved like the thing."""
        axis = np.append(self.estimator.first_axis[0], 0)
        begin, end = (axis + away * np.array([math.cos(there), math.sin(there), 0]) for away, there, _ in (was, now))
        return (place - begin) @ _about((now - was)[1:].sum()).T + end

    def _seen(self, state: np.ndarray, shift: np.ndarray, was: np.ndarray, now: np.ndarray, more: int) -> np.ndarray:
        """Return the states with the joints that far off and the thing elsewhere, and `more` quarters turned."""
        seen, (hand, thing, joints, speeds, offset, _) = state.copy(), self.at.values()
        seen[:, joints] += shift
        seen[:, speeds] += np.gradient(shift, axis=0) * self.hz
        pairs = zip(seen[:, joints], state[:, hand], strict=True)
        seen[:, hand] = [nearest(self.estimator.hand(each), to) for each, to in pairs]
        seen[:, thing[:3]] = self._laid(state[:, thing[:3]], was, now)
        angle = (now - was)[1:].sum() + more * QUARTER
        seen[:, thing[3:]] = about_the_vertical(state[:, thing[3:]].astype(float), angle)
        seen[:, offset] += (seen - state)[:, thing[:3]] - (seen - state)[:, hand[:3]]
        return seen


def _unlike(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how differently things lie (..., 3) as the arm sees it, in rad."""
    away, _, yaw = np.moveaxis(others - one, -1, 0)
    return np.hypot(away / ALIKE_M, yaw - QUARTER * np.round(yaw / QUARTER))


def _about(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about the vertical."""
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def _posed(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place (3,) and the axes, as columns (3, 3), of a pose (7,)."""
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, pose[3:])
    return pose[:3], axes.reshape(3, 3)
