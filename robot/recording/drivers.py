"""What chooses the arm's goals during a recording: a scripted expert, a policy, or a person with a teleoperator."""

from typing import Protocol

import numpy as np
import torch
from lerobot.teleoperators import Teleoperator

from robot.so101_sim import SO101Sim
from sim.so101.experts import Expert, Unreachable, expert
from sim.so101.scene import JOINTS, VariedArm
from sim.so101.targets import Targets
from worldmodel.mistakes import Mistake
from worldmodel.observation import Observation

HOLD_S = 0.3
"""How long an episode continues after the expert is done, so that the arm can arrive."""


class DriverLost(RuntimeError):
    """The driver is gone, e.g. a leader arm whose cable was pulled; the message is one line."""


class Driver(Protocol):
    """Chooses goals, step by step."""

    def begin(self, seed: int) -> None:
        """Start an episode; the arm is where the episode begins."""

    def goal(self, observation: dict) -> dict[str, float] | None:
        """Return the joints' goals by key, or None when the episode is over. Raises DriverLost."""

    def close(self) -> None:
        """Release the driver's resources."""


class ScriptDriver:
    """The scripted expert of the simulated arm's task."""

    def __init__(self, robot: SO101Sim):
        self._robot = robot
        self._expert: Expert  # for the episode, from `begin` on
        self._left = 0  # control steps left to hold still

    def begin(self, seed: int) -> None:
        """Start an episode of the expert. Raises Unreachable."""
        self._expert = expert(self._robot.scene, self._robot.config.task, np.random.default_rng(seed))
        self._left = round(HOLD_S * self._robot.config.control_hz)

    def goal(self, observation: dict) -> dict[str, float] | None:
        """Return the expert's next targets; None once it is done and has held, or the object has got out of reach."""
        if self._expert.done():
            self._left -= 1
        try:
            return None if self._left < 0 else named(self._robot.units.from_rad(self._expert.target()))
        except Unreachable:
            return None

    def close(self) -> None:
        """Do nothing: a script holds no resources."""


class Sight(Protocol):
    """What an agent perceives of the simulated arm's scene."""

    def see(self, scene: VariedArm, target: np.ndarray) -> Observation:
        """Return the observation of one arm while the arm moves to `target` (6,) in rad."""

    def close(self) -> None:
        """Release what it sees through."""


class PolicyDriver:
    """An agent acting in the simulated arm's task."""

    def __init__(self, robot: SO101Sim, agent, control_targets: Targets, sight: Sight):
        self._robot, self._agent, self._targets, self._sight = robot, agent, control_targets, sight

    def begin(self, seed: int) -> None:
        """Seed the agent's generator and forget the last episode."""
        self._agent.generator.manual_seed(seed)
        self._agent.reset(torch.ones(1, dtype=torch.bool))

    def goal(self, observation: dict) -> dict[str, float]:
        """Return the joint goals of the agent's next action."""
        scene = self._robot.scene
        action = self._agent.act(self._sight.see(scene, scene.commanded))[0].numpy()
        return named(self._robot.units.from_rad(self._targets.next(scene.commanded, action)))

    def close(self) -> None:
        """Close its sight."""
        self._sight.close()


class TeleopDriver:
    """Any LeRobot teleoperator whose actions have the robot's own keys."""

    def __init__(self, teleop: Teleoperator, keys: list[str]):
        """Connect without prompting.

        Raises ValueError for a teleoperator that lacks one of `keys` or is not calibrated, ConnectionError if motors do
        not answer.
        """
        if missing := [key for key in keys if key not in teleop.action_features]:
            raise Mistake(
                f"teleop.type={teleop.name}: moves {', '.join(teleop.action_features)}, not {', '.join(missing)}"
            )
        self._teleop, self._keys = teleop, keys
        try:
            teleop.connect(calibrate=False)
        except RuntimeError as error:  # LeRobot's error for missing servos
            raise ConnectionError(f"teleop.type={teleop.name}: {error}") from error
        if not teleop.is_calibrated:
            teleop.disconnect()
            raise Mistake(f"teleop.type={teleop.name}: not calibrated; lerobot-calibrate --teleop.type=...")

    def begin(self, seed: int) -> None:
        """Do nothing: the person sees that an episode begins."""

    def goal(self, observation: dict) -> dict[str, float]:
        """Return the teleoperator's current position. Raises DriverLost if it cannot be read."""
        try:
            action = self._teleop.get_action()
        except Exception as error:
            raise DriverLost(f"the teleoperator cannot be read: {' '.join(str(error).split())}") from error
        return {key: float(action[key]) for key in self._keys}

    def close(self) -> None:
        """Disconnect the teleoperator."""
        if self._teleop.is_connected:
            self._teleop.disconnect()


def named(values: np.ndarray) -> dict[str, float]:
    """Return values (6,) by LeRobot's keys."""
    return dict(zip((f"{joint}.pos" for joint in JOINTS), values.tolist(), strict=True))
