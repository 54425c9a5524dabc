"""Visualise what a model expects by looking up the nearest remembered observation; nothing is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.model import WorldModel
from worldmodel.replay import Replay, sample_starts, window_at

AT_ONCE = 50  # moments encoded per batch; 1000 at once would take 22 GB with 512 x 512 frames


@dataclass(frozen=True)
class NearestFrames:
    """N moments (observations) from a replay: the newest frame of each camera (N, H, W, 3), and the latents (N, D).

    `alone`: for each sense, the latents (N, D) encoded from it alone; `there`: where (N,) that sense was present.
    """

    frames: dict[str, Tensor]
    latents: Float[Tensor, "N D"]
    alone: dict[str, Tensor]
    there: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, replay: Replay, model: WorldModel, count: int = 1000, seed: int = 0) -> "NearestFrames":
        """Sample `count` moments uniformly from the replay. Raises ValueError if it holds no step."""
        env, row = sample_starts(replay, count, torch.Generator().manual_seed(seed))
        parts = [_moments(replay, model, *each) for each in zip(env.split(AT_ONCE), row.split(AT_ONCE), strict=True)]
        frames, latents, alone, there = zip(*parts, strict=True)
        return cls(_all(frames), torch.cat(latents), _all(alone), _all(there))

    @property
    def beside(self) -> dict[str, Tensor]:
        """For each sense, where (N,) it and at least one other sense were present."""
        several = torch.stack(list(self.there.values())).sum(0) > 1
        return {key: here & several for key, here in self.there.items()}

    def expected(self, camera: str, latents: Float[Tensor, "T D"]) -> Tensor:
        """Return the frames (T, H, W, 3) remembered nearest to `latents`; none if the camera was never there."""
        saw = self.there[camera]
        if not bool(saw.any()):
            return self.frames[camera][:0]
        return self.frames[camera][nearest(latents, self.latents, saw)]

    def agreement(self) -> dict[str, float]:
        """Return 1 - E|z_alone - z|^2 / E|z' - z|^2 for each sense seen beside another; z': of other moments."""
        apart = (self.latents - self.latents.roll(1, 0)).square().sum(-1).mean().clamp(min=1e-12)
        beside = self.beside
        off = {key: (z - self.latents)[beside[key]].square().sum(-1).mean() for key, z in self.alone.items()}
        return {naming.name(key): float(1 - value / apart) for key, value in off.items() if beside[key].any()}


def nearest(
    latents: Float[Tensor, "T D"], others: Float[Tensor, "N D"], among: Bool[Tensor, " N"]
) -> Int[Tensor, " T"]:
    """Return the index (T,) of the nearest of `others` to each latent, considering only those marked in `among`."""
    return torch.cdist(latents, others).masked_fill(~among, torch.inf).argmin(-1).cpu()


def _moments(replay: Replay, model: WorldModel, env: Int[Tensor, " N"], row: Int[Tensor, " N"]) -> tuple:
    """Return the fields of `NearestFrames` at these rows of these environments."""
    seen = window_at(replay, env, row, 1, 1).seen.map(lambda x: x[0])
    newest = {key: value[:, 0] for key, value in seen.values.items() if naming.is_image(key)}
    ready = model.preprocess(seen)
    parts, presence, fuse = model.encode_each(ready), ready.presence, model.encoder.fuse
    single = presence.unsqueeze(0) * torch.eye(parts.shape[-2], device=parts.device).unsqueeze(1)
    alone = {key: fuse(parts, here) for key, here in zip(seen.values, single, strict=True)}
    return newest, fuse(parts, presence), alone, ready.present


def _all(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate tensors along the first dimension, key by key."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def imagined(model: WorldModel, latent: Float[Tensor, " D"], sentence: Float[Tensor, "T P"]) -> Float[Tensor, "T D"]:
    """Imagine a plan (T, P) from one latent and return the latent at the end of each token."""
    tokens = sentence.to(latent.device).unsqueeze(1)
    return torch.cat([z for z, _ in model.unroll(latent.unsqueeze(0), tokens)])
