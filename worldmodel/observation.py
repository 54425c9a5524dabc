"""The one record of what is observed, every sense of a model with its mask; and the history of its frames.

The record is made once, where data enters (a Gymnasium environment, LeRobot's batch, a robot's message), by
`Observation.of`, which holds the only check. Habit of openpi's `models/model.py`.

One rule for the frames stacked: one from before the start of an episode, or from before a gap in the camera's frames,
is replaced by the first frame after it. So a frame's age is its lag, but at most the number of control steps for which
the camera's frames have come without a break.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.senses import Shapes, is_image, shows_scene

NO_MASKS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Observation:
    """What is observed at any number of moments; every sense of the model is a key of both dicts, in its order.

    values: each sense (*B, ...) by LeRobot's key; zeros where it is missing. present: (*B,) bool, where it is there.
    Frames are (*B, H, W, 3) uint8, or stacks of them, (*B, F, H, W, 3), after `FrameHistory`.
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


def unbroken(usable: Bool[Tensor, "*B K"]) -> Int[Tensor, "*B"]:
    """Count how many of the K preceding frames, the newest first, are usable before the first that is not."""
    return usable.long().cumprod(-1).sum(-1)


def ages(steps: Int[Tensor, "*B"], lags: Sequence[int]) -> Int[Tensor, "*B F"]:
    """Return the age of each of F stacked frames, in control steps; `steps`: how far back the frames are unbroken."""
    return torch.minimum(torch.tensor(lags, device=steps.device), steps.unsqueeze(-1))


class FrameHistory:
    """The latest frames of each camera of B environments, of which stacks are made; it begins anew if B changes."""

    def __init__(self, lags: Sequence[int]):
        """Stack frames by `lags`: how many control steps ago each frame of a stack was taken."""
        self.lags, self.depth = tuple(lags), max(lags) + 1
        self.kept: dict[str, Tensor] = {}  # (B, depth, H, W, 3), the newest last
        self.steps: dict[str, Tensor] = {}  # (B,): frames before the newest without a break; -1: the newest is missing

    def see(self, observation: Observation, steps: int = 1) -> Observation:
        """Replace frames (B, H, W, 3) by stacks (B, F, H, W, 3); call this at every control step.

        `steps`: control steps since the last observation. Where some were missed, the frame before stands for theirs.
        """
        stacks = {}
        for key, value in observation.values.items():
            if not is_image(key):
                continue
            kept = self.kept.get(key)
            if kept is None or kept[:, 0].shape != value.shape:
                kept = value.unsqueeze(1).expand(-1, self.depth, *value.shape[1:])
                past = torch.zeros(len(value), dtype=torch.long)
            else:
                missed = kept[:, -1:].expand(-1, min(steps - 1, self.depth), *value.shape[1:])
                kept = torch.cat([kept, missed, value.unsqueeze(1)], 1)[:, -self.depth :]
                past = torch.where(self.steps[key] < 0, 0, self.steps[key] + steps)
            at = self.depth - 1 - ages(past, self.lags)
            stacks[key] = kept[torch.arange(len(value)).unsqueeze(1), at]
            self.kept[key], self.steps[key] = kept, torch.where(observation.present[key], past, -1)
        return observation.with_values(stacks)

    def reset(self, begun: Bool[Tensor, " B"]) -> None:
        """Start new stacks in the environments (B,) marked: their next frame is the first of an episode."""
        for key, steps in self.steps.items():
            if len(steps) == len(begun):
                self.steps[key] = torch.where(begun, -1, steps)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the frames kept, and how far back they are unbroken."""
        return {"kept": {key: kept.contiguous() for key, kept in self.kept.items()}, "steps": dict(self.steps)}

    def load_state_dict(self, saved: dict[str, dict[str, Tensor]]) -> None:
        """Restore what `state_dict` returned."""
        self.kept = {key: kept.clone() for key, kept in saved.get("kept", {}).items()}
        self.steps = {key: steps.clone() for key, steps in saved.get("steps", {}).items()}
