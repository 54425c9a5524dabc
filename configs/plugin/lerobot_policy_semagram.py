"""What LeRobot's commands import at their start: makes Semagram's policy, robot, camera and environment known to them.

LeRobot finds its plug-ins by the name of an installed distribution, which must begin with `lerobot_policy_` or the
like, underscores included; `semagram` does not. So beside this file lies the metadata of a distribution of that name,
and this folder is on the path of the environment that Semagram is installed in (`lerobot_policy_semagram.pth`).
"""

from envs import lerobot_env  # noqa: F401
from robot import config_so101, configuration_semagram  # noqa: F401
