"""A LeRobot robot wrapped around another: the same name, config, features and calibration."""

from lerobot.robots import Robot


class WrappedRobot(Robot):
    """Delegates the identity of the robot to `robot`; subclasses define how it moves."""

    def __init__(self, robot: Robot):
        self.robot = robot
        self.config, self.config_class, self.name = robot.config, robot.config_class, robot.name
        self.robot_type, self.id = robot.robot_type, robot.id
        self.calibration_dir, self.calibration_fpath = robot.calibration_dir, robot.calibration_fpath

    @property
    def observation_features(self) -> dict:
        """The wrapped robot's observation features."""
        return self.robot.observation_features

    @property
    def action_features(self) -> dict:
        """The wrapped robot's action features."""
        return self.robot.action_features

    @property
    def cameras(self) -> dict:
        """The wrapped robot's cameras; empty if it has none."""
        return getattr(self.robot, "cameras", {})

    @property
    def calibration(self) -> dict:
        """The wrapped robot's calibration."""
        return self.robot.calibration

    @property
    def is_calibrated(self) -> bool:
        """Whether the wrapped robot is calibrated."""
        return self.robot.is_calibrated

    def calibrate(self) -> None:
        """Calibrate the wrapped robot."""
        self.robot.calibrate()

    def configure(self) -> None:
        """Configure the wrapped robot."""
        self.robot.configure()
