"""Frame stacks, for a model that takes several frames of a camera at once from an environment that returns one."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from policies.storage.folders import part
from worldmodel.senses import is_image, mask


class FrameStack:
    """Frame stacks of B environments: each camera's current frame together with earlier ones, at the given lags.

    Frames from before the start of an episode, or from before a camera came back after missing frames, are replaced by
    the first frame that follows.
    """

    def __init__(self, lags: Sequence[int]):
        """Stack frames by `lags`: how many control steps ago each frame of a stack was taken."""
        self.lags, self.depth = tuple(lags), max(lags) + 1
        self.frames: dict[str, Tensor] = {}  # (B, depth, H, W, 3), the newest last
        self.fresh = torch.zeros(0, dtype=torch.bool)
        self.lost: dict[str, Tensor] = {}  # (B,) for each camera: whether its newest frame is missing

    def see(self, observation: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace frames (B, H, W, 3) of the observation by stacks (B, F, H, W, 3); call this at every control step."""
        shown = dict(observation)
        self.frames = {key: kept for key, kept in self.frames.items() if key in observation}
        for key, value in observation.items():
            if not is_image(key):
                continue
            kept = self.frames.get(key)
            every = value.unsqueeze(1).expand(-1, self.depth, *value.shape[1:])
            if kept is None or kept[:, 0].shape != value.shape or len(self.fresh) != len(value):
                kept = every
            else:
                kept = torch.cat([kept[:, 1:], value.unsqueeze(1)], 1)
                first = self.fresh | self.lost[key]
                kept = torch.where(first.view(-1, *[1] * (kept.dim() - 1)), every, kept)
            there = observation.get(mask(key), torch.ones(len(value), 1))
            self.frames[key], self.lost[key] = kept, there[:, 0] == 0
            shown[key] = kept[:, [self.depth - 1 - lag for lag in self.lags]]
        self.fresh = torch.zeros(len(next(iter(observation.values()))), dtype=torch.bool)
        return shown

    def forget(self, ended: Bool[Tensor, " B"]) -> None:
        """Start new stacks in the environments (B,) that ended: their next frame is the first of an episode."""
        self.fresh = ended | self.fresh if len(self.fresh) == len(ended) else ended.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the frames kept, which newest frames are missing, and which environments start a new stack."""
        frames = {f"frames.{key}": kept.contiguous() for key, kept in self.frames.items()}
        return frames | {f"lost.{key}": self.lost[key] for key in self.frames} | {"fresh": self.fresh}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.frames = {key: kept.clone() for key, kept in part(saved, "frames.").items()}
        self.fresh = saved["fresh"].clone()
        self.lost = {key: saved[f"lost.{key}"].clone() for key in self.frames}
