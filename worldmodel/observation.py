"""The one record of what is observed: every sense of a model with its mask.

Made once, where data enters (a Gymnasium environment, LeRobot's batch, a robot's message), by `Observation.of`, which
holds the only check; everything further in takes the record. Habit of openpi's `models/model.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.senses import Shapes, is_image, shows_scene

NO_MASKS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Observation:
    """What is observed at any number of moments; every sense of the model is a key of both dicts, in its order.

    values: each sense (*B, ...) by LeRobot's key; zeros where it is missing. present: (*B,) bool, where it is there.
    Frames are (*B, H, W, 3) uint8, or stacks of them, (*B, F, H, W, 3), after `worldmodel.frames.FrameHistory`.
    """

    values: dict[str, Tensor]
    present: dict[str, Tensor]

    @classmethod
    def of(
        cls, senses: Shapes, values: Mapping[str, object], present: Mapping[str, Tensor] = NO_MASKS
    ) -> "Observation":
        """Check values (*B, *shape) of some of `senses` and complete them; further keys are ignored.

        `present`: where (*B, or *B, 1) senses are there; one without a mask is there everywhere, one without a value
        nowhere. What is missing is set to zero, so that nothing under a mask, NaN say, can leak; but a model with a
        single sense has nothing else to go by, so that its value stays. Raises ValueError, in one line that names the
        sense, for a wrong type or shape, a number that is not finite, or if no sense that observes the scene is there.
        """
        lead: tuple[int, ...] | None = None
        for key, shape in senses.items():
            if key in values:
                lead = _lead(key, shape, values[key], lead)
        if lead is None or not any(key in values and shows_scene(key) for key in senses):
            scene = ", ".join(filter(shows_scene, senses))
            raise UserError(f"none of the senses {scene} is there; there is {', '.join(map(str, values)) or 'nothing'}")
        whole, there = {}, {}
        for key, shape in senses.items():
            value = values.get(key)
            if not isinstance(value, Tensor):  # absent: other types were refused above
                kind = torch.uint8 if is_image(key) else torch.float32
                whole[key] = torch.zeros(*lead, *shape, dtype=kind)
                there[key] = torch.zeros(lead, dtype=torch.bool)
                continue
            mask = present.get(key)
            here = torch.ones(lead, dtype=torch.bool) if mask is None else mask.reshape(lead).bool()
            if len(senses) > 1 and mask is not None and not bool(here.all()):
                value = torch.where(here.view(*lead, *[1] * len(shape)).to(value.device), value, 0)
            whole[key], there[key] = _finite(key, value), here
        return cls(whole, there)

    def __len__(self) -> int:
        """Count the moments along the first axis."""
        return len(next(iter(self.present.values())))

    @property
    def presence(self) -> Float[Tensor, "*B n"]:
        """The masks of all n senses together: 1 where a sense is there, else 0."""
        return torch.stack(list(self.present.values()), -1).float()

    def map(self, function: Callable[[Tensor], Tensor]) -> "Observation":
        """Apply a function of the leading axes, such as indexing, to every value and mask."""
        return Observation(
            {key: function(value) for key, value in self.values.items()},
            {key: function(mask) for key, mask in self.present.items()},
        )

    def with_values(self, values: Mapping[str, Tensor]) -> "Observation":
        """Return this observation with the values of some senses replaced."""
        return Observation({**self.values, **values}, self.present)

    def to(self, device: torch.device) -> "Observation":
        """Return the observation on another device."""
        return self.map(lambda x: x.to(device))


def _lead(key: str, shape: Sequence[int], value: object, others: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the leading axes *B of a value, which must equal those of the senses before it, if any."""
    needed = f"({', '.join(map(str, ('B', *shape)))})"
    if not isinstance(value, Tensor):
        raise UserError(f"{key}: a {type(value).__name__}; a tensor of shape {needed} is needed")
    at = value.dim() - len(shape)
    if at < 1 or value.shape[at:] != tuple(shape):
        raise UserError(f"{key}: shape {tuple(value.shape)}; {needed} is needed, of B environments")
    if is_image(key) and value.dtype != torch.uint8:
        raise UserError(f"{key}: frames of {value.dtype}; bytes (torch.uint8) are needed")
    lead = tuple(value.shape[:at])
    if others not in (None, lead):
        raise UserError(f"{key}: of {lead[0]} environments, the senses before it of {others[0]}")
    return lead


def _finite(key: str, value: Tensor) -> Tensor:
    """Return a value. Raises ValueError, naming the place, if one of its numbers is not finite."""
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        place = tuple((~torch.isfinite(value)).nonzero()[0])
        raise UserError(f"{key}[{int(place[-1])}] is {float(value[place])}: finite numbers only")
    return value
