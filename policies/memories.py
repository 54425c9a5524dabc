"""What a model expects, shown by what it remembers: nothing is decoded, the nearest remembered moment is looked up."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.model import WorldModel
from worldmodel.replay import Replay
from worldmodel.windows import sample_starts, window_at


@dataclass(frozen=True)
class Memories:
    """N moments out of a replay: what each camera saw then, the newest frames (N, H, W, 3), and the latents (N, D).

    `alone`: for each sense the latents (N, D) that it gives by itself; `beside` (N,): where it was there, and another
    as well.
    """

    frames: dict[str, Tensor]
    latents: Float[Tensor, "N D"]
    alone: dict[str, Tensor]
    beside: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, replay: Replay, model: WorldModel, count: int = 1000, seed: int = 0) -> "Memories":
        """`count` moments drawn from all that the replay holds. Raises ValueError where that is nothing."""
        env, row = sample_starts(replay, count, torch.Generator().manual_seed(seed))
        seen = {key: value[0] for key, value in window_at(replay, env, row, 1, 1).seen.items()}
        newest = {key: value[:, 0] for key, value in seen.items() if naming.is_image(key)}
        ready = model.scaled(model.prepare(seen))
        encoder = model.encoder
        parts, present = encoder.sense(ready), encoder.present(ready)
        single = present.unsqueeze(0) * torch.eye(len(encoder.keys), device=parts.device).unsqueeze(1)
        alone = {key: encoder.join(parts, here) for key, here in zip(encoder.keys, single, strict=True)}
        both = (present > 0) & (present.sum(-1, keepdim=True) > 1)
        beside = dict(zip(encoder.keys, both.unbind(-1), strict=True))
        return cls(newest, encoder.join(parts, present), alone, beside)

    def nearest(self, latents: Float[Tensor, "T D"]) -> Int[Tensor, " T"]:
        """The moments whose latents are nearest to these."""
        return torch.cdist(latents, self.latents).argmin(-1).cpu()

    def agreement(self) -> dict[str, float]:
        """For each sense, how far the latent that it gives alone is that of all: 1, the same; 0, any other moment's.

        1 - E|z_alone - z|^2 / E|z' - z|^2, where z' is the latent of another moment, over the moments in which it was
        there and not alone; a sense for which there is none is left out.
        """
        apart = (self.latents - self.latents.roll(1, 0)).square().sum(-1).mean().clamp(min=1e-12)
        off = {key: (z - self.latents)[self.beside[key]].square().sum(-1).mean() for key, z in self.alone.items()}
        return {naming.name(key): float(1 - value / apart) for key, value in off.items() if self.beside[key].any()}


@torch.no_grad()
def imagined(model: WorldModel, latent: Float[Tensor, " D"], sentence: Float[Tensor, "T P"]) -> Float[Tensor, "T D"]:
    """The latents that are expected from this one on, at the end of each token of a sentence."""
    z, latents = latent.unsqueeze(0), []
    for token in sentence.to(z.device):
        z = model.next(model.transition_features(z, token.unsqueeze(0)))
        latents.append(z[0])
    return torch.stack(latents)
