"""Scripted experts for the SO-101's tasks: the joint targets of the next control step from the scene's current state.

They keep no clock. Their actions follow from the current state, so that they can be learned from observations (a
script that plays movements by time cannot: while it pauses, nothing observable tells when it continues), recover from
errors, and take over from anyone in mid-motion (HG-DAgger: Kelly et al. 2019, arXiv 1810.02890). They are seeded and
vary in speed, height and lean of the hand. Their targets stay within the safety gate's normal limits.
"""

from abc import ABC, abstractmethod

import gymnasium
import numpy as np

from sim import InvalidValue
from sim.so101 import scene as so101
from sim.so101.kinematics import ARM, DOWN, Pose, Reach, Reached
from sim.so101.tasks import SCRIPTED

RATES = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 3.0])  # rad/s, rad/s^2: a little below the gate's normal limits
ACCELERATIONS = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 17.0])
GAIN = 4.0  # 1/s: rate per remaining distance
AT_REST = 0.05  # rad/s
MOVED_M, TURNED = 0.001, 0.03  # in metres and quaternion components: if an object moves by more, plan the reach anew
READY = np.array([0.0, -0.4, 0.5, 1.1, 0.0])  # in front of the arm, hand pointing down: initial guess for solving
OFF_FIXED_JAW_M = 0.0045  # offset from a cube's centre, so that the fixed finger's 20 mm end 3 mm from its face
LOWEST_M = 0.008  # lowest height of the fingertips above the table
OPEN, HOLD = (0.75, 0.95), -0.1  # gripper targets in rad: range before a grasp; closing on any object
OVER_M, LIFTED_M = (0.05, 0.065), (0.1, 0.12)  # ranges: hand above its grasp before descending; lifted cube's centre
TURNING_MM = 2.0  # cost of a radian of wrist rotation, when choosing between several ways to grasp a cube
ALIGNED_RAD, ASTRAY_RAD = 0.02, 0.07  # deviation from the way down: below the first, descend; above, go over the cube
CLOSES_RAD, CLOSED_RAD = 0.13, 0.09  # distance from the grasp at which open fingers begin to close, and close fully
STAYS = 1.0  # hysteresis: fully closing fingers keep closing up to (1 + STAYS) times those distances
NARROW_RAD = 0.3  # gripper target above which it holds nothing
BETWEEN_M = 0.02  # distance of a cube's centre from the point between the fingers above which they hold nothing
FELT_RAD, FIRM_RAD = 0.05, 0.13  # measured gripper angle minus target at which lifting begins, and is at full speed
LIFT_RATE = 0.12  # m/s


class Unreachable(InvalidValue):
    """The object lies where the arm cannot reach it in the expert's way."""


class Expert(ABC):
    """The expert for one task, for one episode of `env`, a `sim.so101.scene` environment."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        """Start from the arm's current targets. Raises Unreachable if the object cannot be reached."""
        self.env = so101.bare(env)
        self.low, self.high = so101.limits(env)
        self.reach = Reach(self.env.model, self.low, self.high)
        self.most = RATES * rng.uniform(0.8, 1.0)  # rad/s
        self.last = np.asarray(self.env.commanded, float)
        self.rate = np.zeros(6)  # of the targets, rad/s
        self.object = self.pose()
        self.find(self.object)

    def target(self) -> np.ndarray:
        """Return the joint targets (6,) in rad of the next control step, whoever set the previous ones.

        Call exactly once per control step. Raises Unreachable while the object is out of reach; it may come back.
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
        """Plan how to reach the object at `pose` (7,). Raises Unreachable, leaving the expert unchanged."""

    @abstractmethod
    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Return the rates (6,) in rad/s at which the targets `now` (6,) should move, for the object at `pose` (7,)."""

    @abstractmethod
    def done(self) -> bool:
        """Return whether the task is completed."""

    def follows(self, now: np.ndarray, pose: np.ndarray) -> bool:
        """Return whether to plan anew if the object moves."""
        return True

    def towards(self, goal: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Return rates (6,) that move the targets to `goal` (6,): the arm's joints in a line, slowing at the end."""
        rates = GAIN * (goal - now)
        rates[:ARM] /= max(1.0, np.max(np.abs(rates[:ARM]) / self.most[:ARM]))
        rates[ARM] = np.clip(rates[ARM], -self.most[ARM], self.most[ARM])
        return rates

    def pose(self) -> np.ndarray:
        """Return the pose (7,) of the task's object: position in metres, quaternion."""
        return self.env.state()[so101.components(self.env)["object_pose"]].astype(float)

    def solve(self, pose: Pose, start: np.ndarray, most_m: float = 0.004) -> Reached:
        """Solve for the joints of a pose, from `start` (5,). Raises Unreachable if over `most_m` metres off."""
        found = self.reach.solve(pose, start)
        if found.miss_m > most_m:
            raise Unreachable(f"{np.round(pose.place, 3).tolist()} m is {found.miss_m * 1e3:.0f} mm out of reach")
        return found


class Touch(Expert):
    """Brings the fingertips to just above the object, leaving the gripper as it is."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        self.above = rng.uniform([-0.008, -0.008, 0.018], [0.008, 0.008, 0.03])
        self.lean = rng.uniform(-0.15, 0.15)
        super().__init__(env, rng)

    def find(self, pose: np.ndarray) -> None:
        """Solve for the joints that put the fingertips just above the object at `pose` (7,)."""
        place = pose[:3] + self.above
        self.goal = self.solve(_leaning(place, self.lean), READY, most_m=0.015).joints

    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Return rates (6,) towards the object."""
        return self.towards(np.append(self.goal, now[ARM]), now)

    def done(self) -> bool:
        """Return whether the targets have come to rest."""
        return bool(np.abs(self.rate).max() < AT_REST)


class PickLift(Expert):
    """Moves above the cube with open fingers, descends, closes them and lifts it.

    The way down is a line in joint space, from `grasp` (5,) along `way` (5,), which moves the hand by `over` metres.
    Off the line the arm heads for its upper end, on it for the grasp, and in between for a point in between.
    """

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator):
        self.lean = rng.uniform(-0.2, 0.05)
        self.opened, self.over, self.lifted = rng.uniform(*OPEN), rng.uniform(*OVER_M), rng.uniform(*LIFTED_M)
        self.grasp: np.ndarray | None = None
        super().__init__(env, rng)

    def find(self, pose: np.ndarray) -> None:
        """Solve for the grasp of the object at `pose` (7,) and the way down to it."""
        grasp = self._best(pose).joints
        place, axes = self.reach.hand(grasp)
        over = self.solve(Pose(place - self.over * DOWN, axes[:, 2], axes[:, 0]), grasp, most_m=0.03)
        self.grasp, self.way = grasp, over.joints - grasp

    def wanted(self, now: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Lift, faster the harder the fingers press; otherwise approach the way down, descend, and close at its end."""
        measured = so101.positions(self.env)
        if self._holds(measured, now, pose):
            felt = measured[ARM] - now[ARM]
            share = np.clip((felt - FELT_RAD) / (FIRM_RAD - FELT_RAD), 0, 1)
            left = np.clip((self.lifted - pose[2]) * GAIN, 0, LIFT_RATE)  # m/s
            closing = self.towards(np.append(now[:ARM], HOLD), now)
            return closing + np.append(share * left / self.over * self.way, 0)
        astray = self._beside(now[:ARM])
        astray = max(astray, self._beside(measured[:ARM]) - ALIGNED_RAD)  # the arm sags a little below its targets
        share = np.clip((astray - ALIGNED_RAD) / (ASTRAY_RAD - ALIGNED_RAD), 0, 1)
        off = np.abs(measured[:ARM] - self.grasp).max()
        off /= 1 + STAYS * np.clip((self.opened - now[ARM]) / (self.opened - HOLD), 0, 1)
        closed = np.clip((CLOSES_RAD - off) / (CLOSES_RAD - CLOSED_RAD), 0, 1)
        gripper = self.opened + closed * (HOLD - self.opened)
        return self.towards(np.append(self.grasp + share * self.way, gripper), now)

    def follows(self, now: np.ndarray, pose: np.ndarray) -> bool:
        """Return whether to plan anew: not while the cube is held."""
        return not self._holds(so101.positions(self.env), now, pose)

    def done(self) -> bool:
        """Return whether the cube is lifted and the targets have come to rest."""
        return bool(self.pose()[2] > self.lifted - MOVED_M * 5 and np.abs(self.rate).max() < AT_REST)

    def _beside(self, joints: np.ndarray) -> float:
        """Return the largest deviation of joints (5,) from the way down, in rad."""
        along = np.clip((joints - self.grasp) @ self.way / (self.way @ self.way), 0, 1.5)
        return float(np.abs(joints - self.grasp - along * self.way).max())

    def _holds(self, measured: np.ndarray, now: np.ndarray, pose: np.ndarray) -> bool:
        """Return whether the fingers press on the cube."""
        if now[ARM] > NARROW_RAD or measured[ARM] - now[ARM] < FELT_RAD:
            return False
        return bool(np.linalg.norm(pose[:3] - self.reach.hand(measured[:ARM])[0]) < BETWEEN_M)

    def _best(self, lies: np.ndarray) -> Reached:
        """Solve for the best of four grasps by the solver's cost, depth in the table, turn of the wrist; keep to it."""
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
"""The expert class of each scripted task, by task name; made to act from the current state. Raises Unreachable."""


def _leaning(place: np.ndarray, more: float) -> Pose:
    """Return a pose with the fingers down, leaning outwards with distance, and by `more` rad on top."""
    distance = np.hypot(*place[:2])
    lean = np.clip((distance - 0.22) / 0.2, 0.0, 0.9) + more
    outwards = np.array([place[0], place[1], 0.0]) / max(distance, 1e-6)
    return Pose(place, np.cos(lean) * DOWN + np.sin(lean) * outwards)
