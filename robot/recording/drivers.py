"""Who says where the arm goes while it is recorded: a scripted expert, a policy, or a person through a teleoperator."""

from typing import Protocol

import numpy as np
import torch
from lerobot.teleoperators import Teleoperator

from robot.so101_sim import SO101Sim
from sim.so101.experts import Expert, Unreachable, expert
from sim.so101.scene import JOINTS
from sim.so101.targets import Targets
from worldmodel.mistakes import Mistake

HOLD_S = 0.3
"""How long an episode goes on after an expert is done, which lets the arm arrive."""


class DriverLost(RuntimeError):
    """Who drove is gone, as a leader arm whose cable was pulled; the message is one line."""


class Driver(Protocol):
    """Says goals, step by step. `goal` raises DriverLost."""

    def begin(self, seed: int) -> None:
        """An episode begins; the arm is where it will begin."""

    def goal(self, observation: dict) -> dict[str, float] | None:
        """The joints' goals by their keys; None: the episode is over."""

    def close(self) -> None:
        """No more."""


class ScriptDriver:
    """The expert of the simulated arm's task."""

    def __init__(self, robot: SO101Sim):
        self._robot = robot
        self._expert: Expert | None = None
        self._left = 0  # control steps to hold still

    def begin(self, seed: int) -> None:
        """An episode of the expert. Raises Unreachable."""
        self._expert = expert(self._robot.scene, self._robot.config.task, np.random.default_rng(seed))
        self._left = round(HOLD_S * self._robot.config.control_hz)

    def goal(self, observation: dict) -> dict[str, float] | None:
        """The expert's next targets; none where it is done, or what it is about has got out of reach."""
        if self._expert.done():
            self._left -= 1
        try:
            return None if self._left < 0 else named(self._robot.units.from_rad(self._expert.target()))
        except Unreachable:
            return None

    def close(self) -> None:
        """Nothing to do."""


class Sight(Protocol):
    """What an agent perceives of the simulated arm's scene."""

    def see(self, scene, target: np.ndarray) -> dict[str, torch.Tensor]:
        """Its senses, (1, ...) each, while the arm goes to `target` (6,) in rad."""

    def close(self) -> None:
        """No more."""


class PolicyDriver:
    """An agent in the simulated arm's task."""

    def __init__(self, robot: SO101Sim, agent, control_targets: Targets, sight: Sight):
        self._robot, self._agent, self._targets, self._sight = robot, agent, control_targets, sight

    def begin(self, seed: int) -> None:
        """Forget the last episode."""
        self._agent.generator.manual_seed(seed)
        self._agent.reset(torch.ones(1, dtype=torch.bool))

    def goal(self, observation: dict) -> dict[str, float]:
        """What the agent wants next."""
        scene = self._robot.scene.unwrapped
        action = self._agent.act(self._sight.see(scene, scene.commanded))[0].numpy()
        return named(self._robot.units.from_rad(self._targets.next(scene.commanded, action)))

    def close(self) -> None:
        """Close what it sees through."""
        self._sight.close()


class TeleopDriver:
    """Any of LeRobot's teleoperators whose actions are the robot's own keys."""

    def __init__(self, teleop: Teleoperator, keys: list[str]):
        """Connect it, without a question. Raises ValueError for one that moves other things or is not calibrated."""
        if missing := [key for key in keys if key not in teleop.action_features]:
            raise Mistake(
                f"teleop.type={teleop.name}: moves {', '.join(teleop.action_features)}, not {', '.join(missing)}"
            )
        self._teleop, self._keys = teleop, keys
        try:
            teleop.connect(calibrate=False)
        except RuntimeError as error:  # as LeRobot says that servos are missing
            raise ConnectionError(f"teleop.type={teleop.name}: {error}") from error
        if not teleop.is_calibrated:
            teleop.disconnect()
            raise Mistake(f"teleop.type={teleop.name}: not calibrated; lerobot-calibrate --teleop.type=...")

    def begin(self, seed: int) -> None:
        """Nothing to do: the person sees."""

    def goal(self, observation: dict) -> dict[str, float]:
        """Where the person is."""
        try:
            action = self._teleop.get_action()
        except Exception as error:
            raise DriverLost(f"the teleoperator cannot be read: {' '.join(str(error).split())}") from error
        return {key: float(action[key]) for key in self._keys}

    def close(self) -> None:
        """Disconnect it."""
        if self._teleop.is_connected:
            self._teleop.disconnect()


def named(values: np.ndarray) -> dict[str, float]:
    """Values (6,) by LeRobot's keys."""
    return dict(zip((f"{joint}.pos" for joint in JOINTS), values.tolist(), strict=True))
