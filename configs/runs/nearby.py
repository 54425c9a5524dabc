"""Recorded episodes as they might have been: turned about the arm's first axis, and off their path but coming back.

A few dozen demonstrations show few places of things, and, where nobody errs, never how an error is undone. The scene is
the same physics when turned about the vertical axis of the first joint. And from joints a little off, the same absolute
targets lead back: labels as in Laskey et al. 2017 (DART, arXiv 1703.09327), of disturbances that are computed from the
arm's kinematics, not acted out. What the hand holds above the ground moves with it; what it only touches stays where it
was recorded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from envs.state_estimator import StateEstimator
from policies.tokens.curves import Curve
from sim.so101.joints import TURNS, Targets

OFF_RAD = 0.01
"""Standard deviation of the joints from their path, in the mean of the copies."""
DRIFT_S, RETURN_S = 0.3, 0.13
"""How fast the deviation changes, and how fast the imitated action undoes it: time constants."""
HELD, HELD_S = 5.0, 0.5
"""How many times farther off the arm is with something in its hand, and in how many seconds it gets there. A policy
holds still only where it has seen what to do against drifting away."""
LIFTED_M = 0.008
"""How far above its lowest place a thing that is grasped counts as held."""
KEPT_RAD = 0.02
"""How far from the ends of the first joint's range turned episodes stay."""
PAN, HAND, ANGLES, SPEEDS = "joint_positions[0]", "end_effector_pose", "joint_positions", "joint_velocities"
THING, GRASP, OFFSET = "object_pose", "grasp_state", "object_offset"


@dataclass(frozen=True)
class Nearby:
    """Makes such copies of episodes whose states have these `labels` (S,), at `hz`; `curve`: of a token."""

    labels: Sequence[str]
    estimator: StateEstimator
    hz: float
    curve: Curve

    @property
    def targets(self) -> Targets:
        """The conversion from actions to joint targets."""
        return self.estimator.targets

    def copy(
        self, state: Float[np.ndarray, "K S"], before: np.ndarray, goals: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return states (K, S), the actions (T, A) that lead from one to the next, and the tokens (T, P) to imitate.

        `before`, `goals` (T, 6), K = T + 1: joint targets in rad before and after each step.
        """
        targets, held = self.targets, self._held(state)
        off = self._drift(len(state), rng)
        off[:, : len(TURNS)] *= 1 + (HELD - 1) * _recent(held, round(HELD_S * self.hz))[:, None]
        moved = self._moved(state, off, held)
        pan = np.concatenate([before[:, 0], goals[:, 0], moved[:, self.labels.index(PAN)]])
        axis, sign = self.estimator.first_axis
        least, most = targets.low[0] + KEPT_RAD - pan.min(), targets.high[0] - KEPT_RAD - pan.max()
        turn = rng.uniform(least, most) if least < most else 0.0
        turned = np.array([turn, 0, 0, 0, 0, 0])
        actions = _actions(targets, before + off[:-1] + turned, goals + off[1:] + turned)
        left, last, labels = off[:-1], before + off[:-1] + turned, []
        for ahead in range(self.curve.length):
            left = left * math.exp(-1 / (RETURN_S * self.hz))
            goal = goals[np.minimum(np.arange(len(goals)) + ahead, len(goals) - 1)] + left + turned
            labels.append(_actions(targets, last, goal))
            last = goal
        tokens = self.curve.encode(torch.from_numpy(np.stack(labels, 1)).float())
        return torch.from_numpy(self._turned(moved, turn, axis, sign)), torch.from_numpy(actions).float(), tokens

    def _drift(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return smooth deviations (count, 6) in rad: noise, filtered twice, wider in some copies than in others."""
        keep = math.exp(-1 / (DRIFT_S * self.hz))
        run_in = round(5 * DRIFT_S * self.hz)
        noise = rng.normal(size=(count + run_in, 6))
        for _ in range(2):
            for at in range(1, len(noise)):
                noise[at] = keep * noise[at - 1] + (1 - keep) * noise[at]
        # the variance of white noise after both filters
        variance = (1 - keep) ** 4 * (1 + keep**2) / (1 - keep**2) ** 3
        return noise[run_in:] * (OFF_RAD * rng.uniform(0, 2) / math.sqrt(variance))

    def _held(self, state: np.ndarray) -> np.ndarray:
        """Return (K,) whether the hand holds something above the ground."""
        thing, grasp = self._at(THING), self._at(GRASP)
        if not (thing and grasp):
            return np.zeros(len(state), bool)
        height = state[:, thing[2]]
        return (state[:, grasp[0]] > 0.5) & (height > height.min() + LIFTED_M)

    def _moved(self, state: np.ndarray, off: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Return the states with the joints that far off: their angles and speeds, the poses of the hand and of what it
        holds, offsets between them."""
        moved, hand = state.copy(), self._at(HAND)
        joints, thing = self._at(ANGLES), self._at(THING)
        moved[:, joints] += off
        moved[:, self._at(SPEEDS)] += np.gradient(off, axis=0) * self.hz
        for at, (was, now) in enumerate(zip(state[:, joints], moved[:, joints], strict=True)):
            there = self.estimator.hand(was)
            here = nearest(self.estimator.hand(now), there)
            moved[at, hand] += here - there
            if held[at]:
                moved[at, thing] = _carried(state[at, thing], there, here)
        moved[:, hand[3:]] /= np.linalg.norm(moved[:, hand[3:]], axis=1, keepdims=True)
        for part in (OFFSET, "target_offset"):
            if place := self._at(part):
                moved[:, place] -= moved[:, hand[:3]] - state[:, hand[:3]]
                if part == OFFSET:
                    moved[:, place] += moved[:, thing[:3]] - state[:, thing[:3]]
        return moved

    def _turned(self, state: np.ndarray, turn: float, axis: np.ndarray, sign: float) -> np.ndarray:
        """Return the states of the scene turned about the vertical `axis`, (x, y), so that the first joint is at `turn`
        more: places, directions and orientations, by the names of the parts of a state."""
        angle, turned = turn * sign, state.copy()
        c, s = math.cos(angle), math.sin(angle)
        rotation = np.array([[c, -s], [s, c]])
        for name in {label.partition("[")[0] for label in self.labels}:
            at = self._at(name)
            if name.endswith(("_pose", "_position")):
                turned[:, at[:2]] = (state[:, at[:2]] - axis) @ rotation.T + axis
            elif name.endswith(("_offset", "_direction", "_velocity")):
                turned[:, at[:2]] = state[:, at[:2]] @ rotation.T
            elif name.endswith("joint_positions"):
                turned[:, at[0]] += turn
            if name.endswith("_pose"):
                turned[:, at[3:]] = about_the_vertical(state[:, at[3:]], angle)
        return turned

    def _at(self, part: str) -> list[int]:
        return places(self.labels, part)


def places(labels: Iterable[str], part: str) -> list[int]:
    """Return where the numbers of a part are in a state with these labels."""
    return [i for i, label in enumerate(labels) if label.partition("[")[0] == part]


def about_the_vertical(orientation: Float[np.ndarray, "K 4"], angle: float) -> Float[np.ndarray, "K 4"]:
    """Return quaternions (w, x, y, z) turned by an angle about the vertical axis."""
    (w, x, y, z), c, s = orientation.T, math.cos(angle / 2), math.sin(angle / 2)
    return np.stack([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w], 1)


def _actions(targets: Targets, before: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return np.stack([targets.action(last, goal) for last, goal in zip(before, goals, strict=True)])


def _recent(held: np.ndarray, count: int) -> np.ndarray:
    """Return (K,) the share of the last `count` steps in which something was held, and 0 where nothing is."""
    return held * np.convolve(held, np.full(count, 1 / count))[: len(held)]


def _carried(thing: np.ndarray, there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return the pose (7,) of a thing that a hand took along from one pose (7,) to another."""
    back, turn, place, orientation = np.zeros(4), np.zeros(4), np.zeros(3), np.zeros(4)
    mujoco.mju_negQuat(back, there[3:])
    mujoco.mju_mulQuat(turn, here[3:], back)
    mujoco.mju_rotVecQuat(place, thing[:3] - there[:3], turn)
    mujoco.mju_mulQuat(orientation, turn, thing[3:])
    return nearest(np.concatenate([here[:3] + place, orientation]), thing)


def nearest(pose: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return a pose (7,) with the sign of its quaternion that is nearest to another's."""
    return pose if pose[3:] @ to[3:] >= 0 else np.concatenate([pose[:3], -pose[3:]])
