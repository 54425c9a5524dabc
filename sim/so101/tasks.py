"""The SO-101's tasks and control modes, by name. Cheap to import: commands read this to print help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CENTRE = (0.15, 0.0)  # point about which so101-nexus places objects: x forward and y left of the arm's base, in metres
HIGHEST = 0.04
"""Greatest height of the centre of an object on the table, in metres; in training, objects are 2.5 cm cubes."""


@dataclass(frozen=True)
class ArmTask:
    """A so101-nexus task: Gymnasium id, seconds of an episode, instruction, and where its object is placed, if known.

    `ring`: in the half ring in front of CENTRE, between these radii; `square`: at most so far from CENTRE in x and in
    y; in metres.
    """

    id: str
    seconds: float
    instruction: str
    ring: tuple[float, float] | None = None
    square: float = 0.0

    def untrained(self, place: Sequence[float]) -> str:
        """Explain how an object at `place`, (x, y, z) in metres, differs from training, "" if it does not."""
        (x, y, z), (u, v), half = place, CENTRE, self.square
        if self.ring:
            inner, outer = self.ring
            inside = x >= u and inner - 1e-9 <= math.dist((x, y), CENTRE) <= outer + 1e-9
            where = f"{100 * inner:g} to {100 * outer:g} cm from ({u:g}, {v:g}), x from {u:g} on"
        else:
            inside = max(abs(x - u), abs(y - v)) <= half + 1e-9
            where = f"x {u - half:g} to {u + half:g}, y {v - half:g} to {v + half:g}"
        if (inside and 0 <= z <= HIGHEST) or not (self.ring or half):
            return ""
        return f"trained with things on the table (z 0 to {HIGHEST:g} m) at {where}"


TASKS: dict[str, ArmTask] = {
    "so101-touch": ArmTask("MuJoCoTouch-v1", 2.0, "touch the cube with the gripper", ring=(0.1, 0.3)),
    "so101-look-at": ArmTask("MuJoCoLookAt-v1", 2.0, "turn the gripper to look at the cube", square=0.05),
    "so101-move": ArmTask("MuJoCoMove-v1", 2.0, "move the gripper to the given place"),
    "so101-pick-lift": ArmTask("MuJoCoPickLift-v1", 6.0, "pick up the cube and lift it"),
    "so101-pick-return": ArmTask("MuJoCoPickReturn-v1", 6.0, "pick up the cube and come back to where you began"),
    "so101-pick-and-place": ArmTask("MuJoCoPickAndPlace-v1", 6.0, "pick up the cube and put it on the target"),
    "so101-stack-cube": ArmTask("MuJoCoStackCube-v1", 6.0, "stack one cube on the other"),
}
"""The tasks, by the name that `task=` accepts. The times are what a brisk arm needs, with some margin."""

SCRIPTED = ("so101-touch", "so101-pick-lift")  # tasks with a scripted expert in `sim.so101.experts`

DELTA, ABSOLUTE = "delta", "absolute"
CONTROLS = (DELTA, ABSOLUTE)
"""How an action is interpreted: it moves the last joint target, or gives the next one (`sim.so101.joints`)."""

REST, ANYWHERE = "rest", "anywhere"
STARTS = (REST, ANYWHERE)
"""Where an episode's arm begins: folded, or mostly at joint angles drawn evenly from their ranges."""

FULL, JOINTS = "full", "joints"
STATES = (FULL, JOINTS)
"""What the state contains: where everything is, or only what the joint encoders tell, so the rest must be seen."""
