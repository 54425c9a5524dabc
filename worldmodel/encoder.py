"""The encoder: fuses the features of all senses into one latent."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel import senses as naming
from worldmodel.layers import NormedLinear
from worldmodel.senses import Shapes
from worldmodel.settings import ModelConfig
from worldmodel.vision import PatchEncoder


class Encoder(nn.Module):
    """Sums per-sense features and fuses them with one layer; a missing sense contributes a learned embedding.

    With a single sense there is no such embedding, and masks have no effect.
    """

    absent: nn.Parameter | None

    def __init__(self, senses: Shapes, config: ModelConfig, dtype: torch.dtype):
        """Create one encoder per sense, for its shape. Raises ValueError for an unknown sense."""
        super().__init__()
        naming.check(senses)
        self.keys = tuple(senses)
        self.parts = nn.ModuleList(_part(key, shape, config, dtype) for key, shape in senses.items())
        self.fuse = NormedLinear(config.width, config.latent, dtype=dtype, group=config.group)
        absent = torch.zeros(len(senses), config.width) if len(senses) > 1 else None
        self.register_parameter("absent", None if absent is None else nn.Parameter(absent))

    def sense(self, seen: dict[str, Tensor]) -> Float[Tensor, "B n h"]:
        """Encode each sense separately; zeros for one whose key is absent. Raises ValueError if all are absent."""
        found = [part(seen[key]) if key in seen else None for key, part in zip(self.keys, self.parts, strict=True)]
        like = next((part for part in found if part is not None), None)
        if like is None:
            raise ValueError(f"none of the senses {', '.join(self.keys)} is there")
        return torch.stack([torch.zeros_like(like) if part is None else part for part in found], -2)

    def present(self, seen: dict[str, Tensor]) -> Float[Tensor, "B n"]:
        """Return a mask that is 1 where a sense is present, by its key and its own mask."""
        like = next(seen[key] for key in self.keys if key in seen)
        lead = like.shape[:-3] if like.dtype == torch.uint8 else like.shape[:-1]
        columns = []
        for key in self.keys:
            if key not in seen:
                columns.append(torch.zeros(lead, device=like.device))
            elif naming.mask(key) in seen:
                columns.append(seen[naming.mask(key)][..., 0].float())
            else:
                columns.append(torch.ones(lead, device=like.device))
        return torch.stack(columns, -1)

    def join(self, parts: Float[Tensor, "B n h"], present: Float[Tensor, "B n"]) -> Float[Tensor, "B D"]:
        """Fuse the features of the senses that are present into one latent."""
        if self.absent is None:
            return self.fuse(parts[..., 0, :])
        here = present.unsqueeze(-1)
        return self.fuse((here * parts + (1 - here) * self.absent).sum(-2))

    def forward(self, seen: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """Encode what `WorldModel.prepare` returned (state normalised) as a latent."""
        return self.join(self.sense(seen), self.present(seen))


def sense_dropout_mask(
    there: Float[Tensor, "B n"], shows: Float[Tensor, " n"], dropout: float, generator: torch.Generator
) -> Float[Tensor, "B n"]:
    """Draw a mask for modality dropout: 0 with probability `dropout` for each sense that observes the scene, else 1.

    `shows` is 1 for these senses and 0 for language, which is never dropped: without it the task is unknown, and values
    would be learned as a mean over tasks. `there`: which senses are present. A row that would leave no present sense
    with `shows` = 1 is all ones instead.
    """
    keep = (torch.rand(there.shape, generator=generator) >= dropout).to(there)
    keep = torch.where(shows > 0, keep, 1.0)
    return torch.where((keep * there * shows).sum(1, keepdim=True) > 0, keep, 1.0)


def _part(key: str, shape: tuple[int, ...], config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    if naming.is_image(key):
        return PatchEncoder(shape[0], shape[1], config.vision, config.width, dtype)
    return NormedLinear(shape[0], config.width, dtype=dtype)
