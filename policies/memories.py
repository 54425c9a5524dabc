"""What a model expects, shown by what it remembers: nothing is decoded, the nearest remembered moment is looked up."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.model import WorldModel
from worldmodel.replay import Replay
from worldmodel.windows import sample_starts, window_at

AT_ONCE = 50  # moments that are encoded together: of cameras with 512 pixels a side a thousand would take 22 GB


@dataclass(frozen=True)
class Memories:
    """N moments out of a replay: what each camera saw then, the newest frames (N, H, W, 3), and the latents (N, D).

    `alone`: for each sense the latents (N, D) that it gives by itself; `there` (N,): where it was.
    """

    frames: dict[str, Tensor]
    latents: Float[Tensor, "N D"]
    alone: dict[str, Tensor]
    there: dict[str, Tensor]

    @classmethod
    def of(cls, replay: Replay, model: WorldModel, count: int = 1000, seed: int = 0) -> "Memories":
        """`count` moments drawn from all that the replay holds. Raises ValueError where that is nothing."""
        env, row = sample_starts(replay, count, torch.Generator().manual_seed(seed))
        some = [cls._at(replay, model, *each) for each in zip(env.split(AT_ONCE), row.split(AT_ONCE), strict=True)]
        return cls(**{part.name: _all([getattr(each, part.name) for each in some]) for part in fields(cls)})

    @classmethod
    @torch.no_grad()
    def _at(cls, replay: Replay, model: WorldModel, env: Int[Tensor, " N"], row: Int[Tensor, " N"]) -> "Memories":
        """The moments at these rows."""
        seen = {key: value[0] for key, value in window_at(replay, env, row, 1, 1).seen.items()}
        newest = {key: value[:, 0] for key, value in seen.items() if naming.is_image(key)}
        ready = model.scaled(model.prepare(seen))
        encoder = model.encoder
        parts, present = encoder.sense(ready), encoder.present(ready)
        single = present.unsqueeze(0) * torch.eye(len(encoder.keys), device=parts.device).unsqueeze(1)
        alone = {key: encoder.join(parts, here) for key, here in zip(encoder.keys, single, strict=True)}
        there = dict(zip(encoder.keys, (present > 0).unbind(-1), strict=True))
        return cls(newest, encoder.join(parts, present), alone, there)

    @property
    def beside(self) -> dict[str, Tensor]:
        """For each sense (N,): where it was there, and another as well."""
        several = torch.stack(list(self.there.values())).sum(0) > 1
        return {key: here & several for key, here in self.there.items()}

    def expected(self, camera: str, latents: Float[Tensor, "T D"]) -> Tensor:
        """The frames (T, H, W, 3) of a camera at the moments whose latents are nearest to these, of those in which it
        saw; none (0, H, W, 3) where it never did."""
        saw = self.there[camera]
        if not bool(saw.any()):
            return self.frames[camera][:0]
        return self.frames[camera][nearest(latents, self.latents, saw)]

    def agreement(self) -> dict[str, float]:
        """For each sense, how far the latent that it gives alone is that of all: 1, the same; 0, any other moment's.

        1 - E|z_alone - z|^2 / E|z' - z|^2, where z' is the latent of another moment, over the moments in which it was
        there and not alone; a sense for which there is none is left out.
        """
        apart = (self.latents - self.latents.roll(1, 0)).square().sum(-1).mean().clamp(min=1e-12)
        beside = self.beside
        off = {key: (z - self.latents)[beside[key]].square().sum(-1).mean() for key, z in self.alone.items()}
        return {naming.name(key): float(1 - value / apart) for key, value in off.items() if beside[key].any()}


def nearest(
    latents: Float[Tensor, "T D"], others: Float[Tensor, "N D"], among: Bool[Tensor, " N"]
) -> Int[Tensor, " T"]:
    """Which of the others, `among` those marked, is nearest to each latent."""
    return torch.cdist(latents, others).masked_fill(~among, torch.inf).argmin(-1).cpu()


def _all(parts: list[Tensor] | list[dict[str, Tensor]]) -> Tensor | dict[str, Tensor]:
    """Rows one after the other; of dictionaries, under each key."""
    if isinstance(parts[0], dict):
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return torch.cat(parts)


@torch.no_grad()
def imagined(model: WorldModel, latent: Float[Tensor, " D"], sentence: Float[Tensor, "T P"]) -> Float[Tensor, "T D"]:
    """The latents that are expected from this one on, at the end of each token of a sentence."""
    z, latents = latent.unsqueeze(0), []
    for token in sentence.to(z.device):
        z = model.next(model.transition_features(z, token.unsqueeze(0)))
        latents.append(z[0])
    return torch.stack(latents)
