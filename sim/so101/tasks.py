"""The SO-101's tasks and how it is controlled, by name. Nothing is imported: commands read this to print help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CENTRE = (0.15, 0.0)
"""About which so101-nexus lays out objects: x forward and y left of the arm's base, in metres."""
HIGHEST = 0.04
"""Of the middle of an object on the table, in metres; those of training are 2.5 cm cubes."""


@dataclass(frozen=True)
class Ring:
    """Places on the table in the half ring before CENTRE, so far from it at least and at most, in metres."""

    inner: float
    outer: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a place (x, y) is one of them."""
        return x >= CENTRE[0] and self.inner - 1e-9 <= math.dist((x, y), CENTRE) <= self.outer + 1e-9

    def __str__(self) -> str:
        """In words."""
        x, y = CENTRE
        return f"{100 * self.inner:g} to {100 * self.outer:g} cm from ({x:g}, {y:g}), x from {x:g} on"


@dataclass(frozen=True)
class Square:
    """Places on the table no further than `half` metres from CENTRE in x and in y."""

    half: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a place (x, y) is one of them."""
        return max(abs(x - CENTRE[0]), abs(y - CENTRE[1])) <= self.half + 1e-9

    def __str__(self) -> str:
        """In words."""
        x, y = CENTRE
        return f"x {x - self.half:g} to {x + self.half:g}, y {y - self.half:g} to {y + self.half:g}"


@dataclass(frozen=True)
class ArmTask:
    """A task of so101-nexus by its Gymnasium id, how many seconds an episode lasts, and where its object is laid."""

    id: str
    seconds: float
    places: Ring | Square | None = None

    def untrained(self, place: Sequence[float]) -> str:
        """Why an object at `place`, (x, y, z) in metres, is not as in training; empty: it is, or nobody knows."""
        x, y, z = place
        if self.places is None or (self.places.holds(x, y) and 0 <= z <= HIGHEST):
            return ""
        return f"trained with things on the table (z 0 to {HIGHEST:g} m) at {self.places}"


TASKS: dict[str, ArmTask] = {
    "so101-touch": ArmTask("MuJoCoTouch-v1", 2.0, Ring(0.1, 0.3)),
    "so101-look-at": ArmTask("MuJoCoLookAt-v1", 2.0, Square(0.05)),
    "so101-move": ArmTask("MuJoCoMove-v1", 2.0),
    "so101-pick-lift": ArmTask("MuJoCoPickLift-v1", 6.0),
    "so101-pick-return": ArmTask("MuJoCoPickReturn-v1", 6.0),
    "so101-pick-and-place": ArmTask("MuJoCoPickAndPlace-v1", 6.0),
    "so101-stack-cube": ArmTask("MuJoCoStackCube-v1", 6.0),
}
"""By the name that `task=` takes. The times are what a brisk arm needs, with some to spare."""

SCRIPTED = ("so101-touch", "so101-pick-lift")
"""Those that `sim.so101.experts` has a script for."""

TIED, ABSOLUTE = "tied", "absolute"
CONTROLS = (TIED, ABSOLUTE)
"""How an action is read: it moves the last joint target, or says the next one (`sim.so101.targets`)."""

FULL, JOINTS = "full", "joints"
STATES = (FULL, JOINTS)
"""What the state tells: where everything is, or what the joints' encoders tell, so that the rest has to be seen."""
