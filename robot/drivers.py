"""What chooses the arm's goals: a scripted expert, a policy, a person with a teleoperator, a written plan.

The planner's is `robot.running.plan_follower`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lerobot.teleoperators import Teleoperator

from robot.loop import Driver, Reading
from robot.so101_sim import SO101Sim
from robot.units import Units
from sim.so101.experts import Expert, Unreachable, expert
from sim.so101.joints import Targets
from worldmodel.errors import UserError

HOLD_S = 0.3
"""How long an episode continues after the expert is done, so that the arm can arrive."""


class DriverLost(RuntimeError):
    """The driver is gone, e.g. a leader arm whose cable was pulled; the message is one line."""


class ScriptDriver(Driver):
    """The scripted expert of the simulated arm's task."""

    def __init__(self, robot: SO101Sim):
        self._robot = robot
        self._expert: Expert  # for the episode, from `begin` on
        self._left = 0  # control steps left to hold still

    def begin(self, seed: int = 0) -> None:
        """Start an episode of the expert. Raises Unreachable."""
        self._expert = expert(self._robot.scene, self._robot.config.task, np.random.default_rng(seed))
        self._left = round(HOLD_S * self._robot.config.control_hz)

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray | None:
        """Return the expert's next targets; None once it is done and has held, or the object has got out of reach."""
        if self._expert.done():
            self._left -= 1
        try:
            return None if self._left < 0 else self._expert.target()
        except Unreachable:
            return None


class PolicyDriver(Driver):
    """An agent acting in the simulated arm's task.

    `observer.see(scene, target)` returns an Observation of one arm while the arm moves to `target` (6,) in rad.
    """

    def __init__(self, robot: SO101Sim, agent, control_targets: Targets, observer):
        self._robot, self._agent, self._targets, self._observer = robot, agent, control_targets, observer

    def begin(self, seed: int = 0) -> None:
        """Seed the agent's generator and forget the last episode."""
        self._agent.generator.manual_seed(seed)
        self._agent.reset(torch.ones(1, dtype=torch.bool))

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the joint goals of the agent's next action."""
        scene = self._robot.scene
        action = self._agent.act(self._observer.see(scene, scene.commanded))[0].numpy()
        return self._targets.next(scene.commanded, action)

    def close(self) -> None:
        """Close its cameras."""
        self._observer.close()


class TeleopDriver(Driver):
    """Any LeRobot teleoperator whose actions have the robot's own keys."""

    def __init__(self, teleop: Teleoperator, keys: Sequence[str], units: Units):
        """Connect without prompting; `keys` are the joints', in order, and `units` theirs.

        Raises ValueError for a teleoperator that lacks one of `keys` or is not calibrated, ConnectionError if motors do
        not answer.
        """
        if missing := [key for key in keys if key not in teleop.action_features]:
            moves = ", ".join(teleop.action_features)
            raise UserError(f"teleop.type={teleop.name}: moves {moves}, not {', '.join(missing)}")
        self._teleop, self._keys, self._units = teleop, keys, units
        try:
            teleop.connect(calibrate=False)
        except RuntimeError as error:  # LeRobot's error for missing servos
            raise ConnectionError(f"teleop.type={teleop.name}: {error}") from error
        if not teleop.is_calibrated:
            teleop.disconnect()
            raise UserError(f"teleop.type={teleop.name}: not calibrated; lerobot-calibrate --teleop.type=...")

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the teleoperator's current position. Raises DriverLost if it cannot be read."""
        try:
            action = self._teleop.get_action()
        except Exception as error:
            raise DriverLost(f"the teleoperator cannot be read: {' '.join(str(error).split())}") from error
        return self._units.to_rad(np.array([float(action[key]) for key in self._keys]))

    def close(self) -> None:
        """Disconnect the teleoperator."""
        if self._teleop.is_connected:
            self._teleop.disconnect()


class WrittenDriver(Driver):
    """A written plan: (seconds, item) in order, an item being an action (A,) for each control step, or an event.

    `target` converts an action to joint targets (6,) in rad; `tell` gets each event when it comes. `farthest` and
    `left`: the largest deviation of a joint from the plan so far, and that of the last command sent; in degrees, over
    the joints except the gripper.
    """

    def __init__(self, items: Sequence, target: Callable[[np.ndarray], np.ndarray], tell: Callable[[float, Any], None]):
        self._targets = [(at, target(item)) for at, item in items if isinstance(item, np.ndarray)]
        self._events = [(at, item) for at, item in items if not isinstance(item, np.ndarray)]
        self._tell, self._at, self.farthest, self.left = tell, -1, 0.0, 0.0

    @property
    def steps(self) -> int:
        """The plan's control steps."""
        return len(self._targets)

    def goal(self, reading: Reading, last: np.ndarray) -> np.ndarray:
        """Return the target that is due now, the last one also if its moment was missed."""
        self._at = min(self._at + reading.steps, self.steps - 1)
        at, goal = self._targets[self._at]
        self.tell_until(at)
        self.farthest = max(self.farthest, _degrees(reading.joints - goal))
        return goal

    def sent(self, target: np.ndarray) -> None:
        """Note how far the command was from the plan."""
        self.left = _degrees(target - self._targets[self._at][1])

    def tell_until(self, seconds: float) -> None:
        """Tell the events that have come by then."""
        while self._events and self._events[0][0] <= seconds:
            self._tell(*self._events.pop(0))


def _degrees(off: np.ndarray) -> float:
    return float(np.degrees(np.abs(off[:-1]).max()))
