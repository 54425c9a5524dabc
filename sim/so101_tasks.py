"""The SO-101's tasks and how it is controlled, by name. Nothing is imported: commands read this to print help."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArmTask:
    """A task of so101-nexus by its Gymnasium id, and how many seconds an episode lasts."""

    id: str
    seconds: float


TASKS: dict[str, ArmTask] = {
    "so101-touch": ArmTask("MuJoCoTouch-v1", 2.0),
    "so101-look-at": ArmTask("MuJoCoLookAt-v1", 2.0),
    "so101-move": ArmTask("MuJoCoMove-v1", 2.0),
    "so101-pick-lift": ArmTask("MuJoCoPickLift-v1", 6.0),
    "so101-pick-return": ArmTask("MuJoCoPickReturn-v1", 6.0),
    "so101-pick-and-place": ArmTask("MuJoCoPickAndPlace-v1", 6.0),
    "so101-stack-cube": ArmTask("MuJoCoStackCube-v1", 6.0),
}
"""By the name that `task=` takes. The times are what a brisk arm needs, with some to spare."""

SCRIPTED = ("so101-touch", "so101-pick-lift")
"""Those that `sim.so101_experts` has a script for."""

TIED, ABSOLUTE = "tied", "absolute"
CONTROLS = (TIED, ABSOLUTE)
"""How an action is read: it moves the last joint target, or says the next one (`sim.targets`)."""

FULL, JOINTS = "full", "joints"
STATES = (FULL, JOINTS)
"""What the state tells: where everything is, or what the joints' encoders tell, so that the rest has to be seen."""
