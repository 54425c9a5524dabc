"""Scripted experts for the SO-101's tasks: from where the scene is now, the joint targets of the next control step.

They keep no clock. What they do follows from what is there, so that it can be learned from what is seen (a script that
plays movements by the time cannot be: where it rests, nobody sees when it goes on), so that they mend what went wrong,
and so that they can take over from anyone in mid-motion (HG-DAgger: Kelly et al. 2019, arXiv 1810.02890). They are
seeded and vary: how fast, how high, how the hand leans. Their targets keep the safety gate's normal limits.
"""

from abc import ABC, abstractmethod

import gymnasium
import numpy as np

from sim.impossible import Impossible
from sim.so101 import scene as so101
from sim.so101.reach import ARM, DOWN, Pose, Reach, Reached
from sim.so101.tasks import SCRIPTED

RATES = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 3.0])  # rad/s, rad/s^2: a little below the gate's normal limits
ACCELERATIONS = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 17.0])
GAIN = 4.0  # 1/s: how fast what is left of a way is gone
AT_REST = 0.05  # rad/s
MOVED_M, TURNED = 0.001, 0.03  # of an object, in metres and in a quaternion's parts: by more, it is reached for anew
READY = np.array([0.0, -0.4, 0.5, 1.1, 0.0])  # before the arm, the hand pointing down: where solving begins
OFF_FIXED_JAW_M = 0.0045  # beside a cube's middle, so that the fixed finger's 20 mm end 3 mm from its face
LOWEST_M = 0.008  # of the fingertips above the table
OPEN, HOLD = (0.75, 0.95), -0.1  # rad of the gripper: before a grasp, and what closes on anything
OVER_M, LIFTED_M = (0.05, 0.065), (0.1, 0.12)  # the hand above its grasp before it descends; a lifted cube's middle
TURNING_MM = 2.0  # what a radian of the wrist's turn is worth, where a cube can be taken in several ways
ALIGNED_RAD, ASTRAY_RAD = 0.02, 0.07  # beside the way down: nearer it descends, farther it first goes over the cube
CLOSES_RAD, CLOSED_RAD = 0.13, 0.09  # from the grasp: where open fingers begin to close, and where they close at once
STAYS = 1.0  # times as far off again, closing fingers go on
NARROW_RAD = 0.3  # of the gripper's target: wider, it holds nothing
BETWEEN_M = 0.02  # of a cube's middle from the point between the fingers: farther, they hold nothing
FELT_RAD, FIRM_RAD = 0.05, 0.13  # of the gripper's target inside what it holds: where lifting begins, and is brisk
LIFT_RATE = 0.12  # m/s


class Unreachable(Impossible):
    """The object lies where the arm cannot take it as the expert would."""


class Expert(ABC):
    """What one task asks of the arm, for one episode of `env`, one of `sim.so101.scene`."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        """Begin where the arm stands. Raises Unreachable."""
        self.env = env.unwrapped
        self.low, self.high = so101.limits(env)
        self.reach = Reach(self.env.model, self.low, self.high)
        self.most = RATES * rng.uniform(0.8, 1.0)  # rad/s
        self.last = np.asarray(self.env.commanded, float)
        self.rate = np.zeros(6)  # rad/s, of the targets
        self.object = self.pose()
        self.find(self.object)

    def target(self) -> np.ndarray:
        """The joint targets (6,) in rad of the next control step, whoever said those before; asked once in each.

        Raises Unreachable where the object has got away; it may come back.
        """
        now, dt = np.asarray(self.env.commanded, float), self.env.control_dt
        pose = self.pose()
        if self.follows(now, pose) and (
            np.abs(pose - self.object)[:3].max() > MOVED_M or np.abs(pose - self.object)[3:].max() > TURNED
        ):
            self.find(pose)
            self.object = pose
        before, step = (now - self.last) / dt, ACCELERATIONS * dt
        wanted = np.clip(self.wanted(now, pose), GAIN * (self.low - now), GAIN * (self.high - now))
        self.rate = before + np.clip(wanted - before, -step, step)
        self.last = now
        return np.clip(now + self.rate * dt, self.low, self.high)

    @abstractmethod
    def find(self, pose: np.ndarray) -> None:
        """See how the object can be reached where it lies, (7,). Raises Unreachable, and stays as it was."""

    @abstractmethod
    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """The rates (6,) in rad/s at which the targets, (6,) now, should move, the object lying as it does, (7,)."""

    @abstractmethod
    def done(self) -> bool:
        """Whether nothing is left to do."""

    def follows(self, now: np.ndarray, pose: np.ndarray) -> bool:
        """Whether an object that moves is to be reached for anew."""
        return True

    def towards(self, goal: np.ndarray, now: np.ndarray) -> np.ndarray:
        """The rates (6,) that bring the targets to `goal` (6,): the arm's joints on one line, slower at the end."""
        rates = GAIN * (goal - now)
        rates[:ARM] /= max(1.0, np.max(np.abs(rates[:ARM]) / self.most[:ARM]))
        rates[ARM] = np.clip(rates[ARM], -self.most[ARM], self.most[ARM])
        return rates

    def pose(self) -> np.ndarray:
        """Of what the task is about (7,): place in metres, quaternion."""
        return self.env.state()[so101.components(self.env)["object_pose"]].astype(float)

    def solve(self, pose: Pose, start: np.ndarray, most_m: float = 0.004) -> Reached:
        """The joints of a pose, from `start` (5,). Raises Unreachable."""
        found = self.reach.solve(pose, start)
        if found.miss_m > most_m:
            raise Unreachable(f"{np.round(pose.place, 3).tolist()} m is {found.miss_m * 1e3:.0f} mm out of reach")
        return found


class Touch(Expert):
    """Brings the closed fingertips to just above the object."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        self.above = rng.uniform([-0.008, -0.008, 0.018], [0.008, 0.008, 0.03])
        self.lean = rng.uniform(-0.15, 0.15)
        super().__init__(env, rng)

    def find(self, pose: np.ndarray) -> None:
        """The joints that touch it."""
        place = pose[:3] + self.above
        self.goal = self.solve(_leaning(place, self.lean), READY, most_m=0.015).joints

    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Towards it."""
        return self.towards(np.append(self.goal, now[ARM]), now)

    def done(self) -> bool:
        """Whether it has come there."""
        return bool(np.abs(self.rate).max() < AT_REST)


class PickLift(Expert):
    """Goes over the cube with open fingers, down, closes them and lifts it.

    The way down is a line in the joints' space: from the grasp, joints (5,), along `way` (5,), which is `over` metres
    long where the hand is. Beside it the arm goes to its upper end, on it to the grasp, and in between to in between.
    """

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        self.lean = rng.uniform(-0.2, 0.05)
        self.opened, self.over, self.lifted = rng.uniform(*OPEN), rng.uniform(*OVER_M), rng.uniform(*LIFTED_M)
        self.grasp: np.ndarray | None = None
        super().__init__(env, rng)

    def find(self, pose: np.ndarray) -> None:
        """The grasp and the way down to it."""
        grasp = self._best(pose).joints
        place, axes = self.reach.hand(grasp)
        over = self.solve(Pose(place - self.over * DOWN, axes[:, 2], axes[:, 0]), grasp, most_m=0.03)
        self.grasp, self.way = grasp, over.joints - grasp

    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Up, the more the fingers press; else to the way down, along it, and closing at its end."""
        measured = so101.positions(self.env)
        if self._holds(measured, now, pose):
            felt = measured[ARM] - now[ARM]
            share = np.clip((felt - FELT_RAD) / (FIRM_RAD - FELT_RAD), 0, 1)
            left = np.clip((self.lifted - pose[2]) * GAIN, 0, LIFT_RATE)  # m/s
            closing = self.towards(np.append(now[:ARM], HOLD), now)
            return closing + np.append(share * left / self.over * self.way, 0)
        astray = self._beside(now[:ARM])
        astray = max(astray, self._beside(measured[:ARM]) - ALIGNED_RAD)  # the arm hangs a little below its targets
        share = np.clip((astray - ALIGNED_RAD) / (ASTRAY_RAD - ALIGNED_RAD), 0, 1)
        off = np.abs(measured[:ARM] - self.grasp).max()
        off /= 1 + STAYS * np.clip((self.opened - now[ARM]) / (self.opened - HOLD), 0, 1)
        closed = np.clip((CLOSES_RAD - off) / (CLOSES_RAD - CLOSED_RAD), 0, 1)
        gripper = self.opened + closed * (HOLD - self.opened)
        return self.towards(np.append(self.grasp + share * self.way, gripper), now)

    def follows(self, now: np.ndarray, pose: np.ndarray) -> bool:
        """Not while it is held."""
        return not self._holds(so101.positions(self.env), now, pose)

    def done(self) -> bool:
        """Whether the cube is up."""
        return bool(self.pose()[2] > self.lifted - MOVED_M * 5 and np.abs(self.rate).max() < AT_REST)

    def _beside(self, joints: np.ndarray) -> float:
        """How far joints (5,) are beside the way down, in rad."""
        along = np.clip((joints - self.grasp) @ self.way / (self.way @ self.way), 0, 1.5)
        return float(np.abs(joints - self.grasp - along * self.way).max())

    def _holds(self, measured: np.ndarray, now: np.ndarray, pose: np.ndarray) -> bool:
        """Whether the fingers press on the cube."""
        if now[ARM] > NARROW_RAD or measured[ARM] - now[ARM] < FELT_RAD:
            return False
        return bool(np.linalg.norm(pose[:3] - self.reach.hand(measured[:ARM])[0]) < BETWEEN_M)

    def _best(self, lies: np.ndarray) -> Reached:
        """The best of the four ways to take the cube by two opposite faces; as before, once it has been chosen.

        That is by how well it can be done, how deep in the table the arm would be, and how far the wrist has to turn.
        """
        place, (w, x, y, z) = lies[:3].copy(), lies[3:]
        place[2] = max(LOWEST_M, place[2] - 0.0015)
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        leaning = _leaning(place, self.lean)
        ways = []
        for quarter in range(4):
            angle = yaw + quarter * np.pi / 2
            across = np.array([np.cos(angle), np.sin(angle), 0.0])
            ways.append(Pose(place - OFF_FIXED_JAW_M * across, leaning.approach, across))
        if self.grasp is not None:
            axis = self.reach.hand(self.grasp)[1][:, 0]
            return self.solve(max(ways, key=lambda pose: float(pose.across @ axis)), self.grasp)
        wrist = self.env.commanded[ARM - 1]

        def cost(pair: tuple[Reached, Pose]) -> float:
            joints = pair[0].joints
            turn = TURNING_MM * (joints[ARM - 1] - wrist)
            return pair[0].cost + (1e3 * self.reach.sunk(joints, self.opened)) ** 2 + turn**2

        found, pose = min(((self.reach.solve(pose, READY), pose) for pose in ways), key=cost)
        return self.solve(pose, found.joints)


EXPERTS: dict[str, type[Expert]] = dict(zip(SCRIPTED, (Touch, PickLift), strict=True))
"""By the task's name."""


def expert(env: gymnasium.Env, task: str, rng: np.random.Generator) -> Expert:
    """The expert of a task from now on, in an episode that has been reset. Raises Unreachable."""
    return EXPERTS[task](env, rng)


def _leaning(place: np.ndarray, more: float) -> Pose:
    """Fingers down, leaning outwards the further the place is away, and by so many rad more."""
    distance = np.hypot(*place[:2])
    lean = np.clip((distance - 0.22) / 0.2, 0.0, 0.9) + more
    outwards = np.array([place[0], place[1], 0.0]) / max(distance, 1e-6)
    return Pose(place, np.cos(lean) * DOWN + np.sin(lean) * outwards)
