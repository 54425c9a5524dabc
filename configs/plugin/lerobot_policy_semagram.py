"""What LeRobot's commands import at their start: makes Semagram's policy, robot, camera and environment known to them.

LeRobot finds its plug-ins by the name of an installed distribution, which must begin with `lerobot_policy_` or the
like, underscores included; `semagram` does not. So beside this file lies the metadata of a distribution of that name,
and this folder is on the path of the environment that Semagram is installed in (`lerobot_policy_semagram.pth`).

A mistake that Semagram names ends LeRobot's commands in its one line, too (SEMAGRAM_TRACEBACK=1: with its traceback).
"""

import os
import sys

from configs.endings import TRACEBACK
from envs import config_lerobot  # noqa: F401
from robot import config_sim_camera, config_so101_sim, configuration_semagram  # noqa: F401
from robot.safety.faults import in_one_line
from worldmodel.mistakes import Mistake

_before = sys.excepthook


def _tell(kind: type, error: BaseException, trace) -> None:
    """End the program as before, but of a mistake with one line on stderr."""
    if isinstance(error, Mistake) and not os.environ.get(TRACEBACK):
        print(f"semagram: {in_one_line(error)}", file=sys.stderr)
    else:
        _before(kind, error, trace)


sys.excepthook = _tell
