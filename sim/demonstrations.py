"""Synthetic demonstrations: a small arm picks something up and puts it down, as joint targets over time."""

from dataclasses import dataclass, replace

import mujoco
import numpy as np

from sim.impossible import Impossible
from sim.small_arm import JOINTS, Pose, model, reach

RATE_HZ = 50
CHANNELS = (*JOINTS, "gripper")
"""Channels of each step: five joint targets in rad, and the gripper from 0 (closed) to 1 (open)."""

TREMOR_RAD, TREMOR_MEMORY = 0.0012, 0.9  # noise of a human hand guiding the arm, and its autocorrelation per step
FLIP_RAD = 0.12  # a larger step means that the inverse kinematics jumped to another solution
GRIP_SHARE = 0.6  # fraction of a phase's time in which the gripper opens or closes


@dataclass(frozen=True)
class Phase:
    """A movement to `goal` in `steps` control steps, while the gripper moves to `grip` (0 closed, 1 open)."""

    goal: Pose
    grip: float
    steps: int


def demonstrations(seed: int, count: int) -> list[np.ndarray]:
    """Generate `count` pick-and-place episodes, each (T, 6) float32 at RATE_HZ, with the channels in CHANNELS.

    T is about 200 to 330; the same seed gives the same episodes. Raises ValueError if `count` is below 1.
    """
    if count < 1:
        raise Impossible(f"count={count}: at least 1")
    rng = np.random.default_rng(seed)
    episodes: list[np.ndarray] = []
    while len(episodes) < count:
        episode = _episode(rng)
        if np.abs(np.diff(episode[:, : len(JOINTS)], axis=0)).max() < FLIP_RAD:
            episodes.append(episode)
    return episodes


def minimum_jerk(s: np.ndarray) -> np.ndarray:
    """Return the fraction of a movement done at fraction s of its time.

    10 s^3 - 15 s^4 + 6 s^5 (Flash and Hogan 1985).
    """
    return s**3 * (10 - 15 * s + 6 * s**2)


def _phases(rng: np.random.Generator) -> tuple[Pose, list[Phase]]:
    """Draw the start pose and the phases: above the object, down, grip, up, above the goal, down, release, home."""
    take, put = (np.array([rng.uniform(0.16, 0.28), rng.uniform(-0.15, 0.15), height]) for height in (0.03, 0.05))
    pitch, roll = rng.uniform(0.8, 1.4), rng.uniform(-1, 1)
    above = np.array([0, 0, 0.08])
    home = Pose(np.array([0.2, 0, 0.2]), 0.9, 0.0)
    places = [take + above, take, take, take + above, put + above, put, put, home.place]
    grips = [1, 1, 0, 0, 0, 0, 1, 1]
    seconds = rng.uniform(0.5, 1.1, len(places))
    seconds[[2, 6]] = rng.uniform(0.25, 0.4, 2)
    phases = [
        Phase(Pose(place, pitch, roll), float(grip), int(s * RATE_HZ))
        for place, grip, s in zip(places, grips, seconds, strict=True)
    ]
    # The hand turns on its way down: half of the turn by the time it is above the object, the rest by the grasp.
    half = replace(phases[0].goal, pitch=(home.pitch + pitch) / 2, roll=roll / 2)
    return home, [replace(phases[0], goal=half), *phases[1:]]


def _episode(rng: np.random.Generator) -> np.ndarray:
    data = mujoco.MjData(model())
    at, phases = _phases(rng)
    joints = reach(data, np.array([0, -0.5, 0.5, 0.8, 0.0]), at, 60)
    tremor: np.ndarray = np.zeros(len(JOINTS))
    grip, rows = 1.0, []
    for phase in phases:
        for share in np.arange(1, phase.steps + 1) / phase.steps:
            done = minimum_jerk(share)
            pose = Pose(
                at.place + (phase.goal.place - at.place) * done,
                at.pitch + (phase.goal.pitch - at.pitch) * share,
                at.roll + (phase.goal.roll - at.roll) * share,
            )
            joints = reach(data, joints, pose, 4)
            tremor = TREMOR_MEMORY * tremor + rng.normal(0, TREMOR_RAD, len(JOINTS))
            gripping = grip + (phase.grip - grip) * min(1.0, share / GRIP_SHARE)
            rows.append(np.append(joints + tremor, gripping))
        at, grip = phase.goal, phase.grip
    return np.array(rows, dtype=np.float32)
