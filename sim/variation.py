"""How much a simulated arm may differ from its model, from one episode to the next. Cheap to import."""

import math
from dataclasses import dataclass

from sim.errors import InvalidValue


@dataclass(frozen=True)
class Variation:
    """Domain randomisation: ranges [low, high] from which each episode draws uniformly. The defaults change nothing.

    `gains`: factor on each servo's stiffness and damping. `friction`: factor on contact friction and on the joints' dry
    friction. `masses`: factor on the mass of each body, objects included. `latency_ms`: delay until a command takes
    effect. `offset_deg`: calibration error of each joint, so that the arm is not where its encoders say. `camera_mm`,
    `camera_deg`: displacement of the camera along each axis, and rotation about it. `light`: factor on the brightness.

    Source: Tobin et al. 2017 (arXiv 1703.06907); Peng et al. 2018 (arXiv 1710.06537).
    """

    gains: tuple[float, ...] = (1.0, 1.0)
    friction: tuple[float, ...] = (1.0, 1.0)
    masses: tuple[float, ...] = (1.0, 1.0)
    latency_ms: tuple[float, ...] = (0.0, 0.0)
    offset_deg: tuple[float, ...] = (0.0, 0.0)
    camera_mm: tuple[float, ...] = (0.0, 0.0)
    camera_deg: tuple[float, ...] = (0.0, 0.0)
    light: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        """Raise ValueError, naming the key, for a range that is not a pair, is reversed or is out of bounds."""
        for name, (least, most) in BOUNDS.items():
            pair = getattr(self, name)
            right = len(pair) == 2 and all(map(math.isfinite, pair)) and least <= pair[0] <= pair[1] <= most
            if not right:
                raise InvalidValue(f"randomise.{name}={list(pair)}: [low, high] with {least} <= low <= high <= {most}")

    @property
    def off(self) -> bool:
        """Whether the variation changes nothing."""
        return self == Variation()


BOUNDS: dict[str, tuple[float, float]] = {
    "gains": (0.1, 10),
    "friction": (0.1, 10),
    "masses": (0.1, 10),
    "latency_ms": (0, 200),
    "offset_deg": (-10, 10),
    "camera_mm": (-100, 100),
    "camera_deg": (-30, 30),
    "light": (0.1, 3),
}
PRESETS: dict[str, Variation] = {
    "off": Variation(),
    "mild": Variation(
        gains=(0.9, 1.1),
        friction=(0.8, 1.25),
        masses=(0.9, 1.1),
        latency_ms=(0.0, 20.0),
        offset_deg=(-1.0, 1.0),
        camera_mm=(-5.0, 5.0),
        camera_deg=(-2.0, 2.0),
        light=(0.8, 1.2),
    ),
    "strong": Variation(
        gains=(0.7, 1.4),
        friction=(0.5, 2.0),
        masses=(0.7, 1.4),
        latency_ms=(0.0, 60.0),
        offset_deg=(-3.0, 3.0),
        camera_mm=(-15.0, 15.0),
        camera_deg=(-5.0, 5.0),
        light=(0.5, 1.5),
    ),
}
"""Named variations, as accepted by `randomise=`."""
