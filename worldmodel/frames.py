"""Frame history: stacks of a camera's newest frame and earlier ones, at given lags.

One rule everywhere: a frame from before the start of an episode, or from before a gap in the camera's frames, is
replaced by the first frame after it. So a stack is made by age: each frame's lag, but at most the number of control
steps for which the camera's frames have come without a break.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from worldmodel.observation import Observation
from worldmodel.senses import is_image


def unbroken(usable: Bool[Tensor, "*B K"]) -> Int[Tensor, "*B"]:
    """Count how many of the K preceding frames, the newest first, are usable before the first that is not."""
    return usable.long().cumprod(-1).sum(-1)


def ages(steps: Int[Tensor, "*B"], lags: Sequence[int]) -> Int[Tensor, "*B F"]:
    """Return the age of each of F stacked frames, in control steps; `steps`: how far back the frames are unbroken."""
    return torch.minimum(torch.tensor(lags, device=steps.device), steps.unsqueeze(-1))


class FrameHistory:
    """The latest frames of each camera of B environments, from which an observation's stacks are made.

    B may change from one observation to the next; the history then begins anew.
    """

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
                past = torch.where(self.steps[key] < 0, 0, self.steps[key] + steps).clamp(max=self.depth - 1)
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
