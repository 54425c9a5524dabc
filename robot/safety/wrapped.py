"""A LeRobot robot around another: the same name, config, features and calibration."""

from lerobot.robots import Robot


class WrappedRobot(Robot):
    """What says who the robot is, taken from `robot`; what moves it is for subclasses."""

    def __init__(self, robot: Robot):
        self.robot = robot
        self.config, self.config_class, self.name = robot.config, robot.config_class, robot.name
        self.robot_type, self.id = robot.robot_type, robot.id
        self.calibration_dir, self.calibration_fpath = robot.calibration_dir, robot.calibration_fpath

    @property
    def observation_features(self) -> dict:
        """The robot's own."""
        return self.robot.observation_features

    @property
    def action_features(self) -> dict:
        """The robot's own."""
        return self.robot.action_features

    @property
    def cameras(self) -> dict:
        """The robot's own."""
        return getattr(self.robot, "cameras", {})

    @property
    def calibration(self) -> dict:
        """The robot's own."""
        return self.robot.calibration

    @property
    def is_calibrated(self) -> bool:
        """Whether the robot is."""
        return self.robot.is_calibrated

    def calibrate(self) -> None:
        """Calibrate the robot."""
        self.robot.calibrate()

    def configure(self) -> None:
        """Configure the robot."""
        self.robot.configure()
