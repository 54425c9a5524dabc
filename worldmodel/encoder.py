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
        self.last = NormedLinear(config.width, config.latent, dtype=dtype, group=config.group)
        absent = torch.zeros(len(senses), config.width) if len(senses) > 1 else None
        self.register_parameter("absent", None if absent is None else nn.Parameter(absent))

    def encode_each(self, values: dict[str, Tensor]) -> Float[Tensor, "B n h"]:
        """Encode each of the n senses separately, whether it is there or not."""
        return torch.stack([part(values[key]) for key, part in zip(self.keys, self.parts, strict=True)], -2)

    def fuse(self, parts: Float[Tensor, "B n h"], presence: Float[Tensor, "B n"]) -> Float[Tensor, "B D"]:
        """Fuse the features of the senses where `presence` is 1, not 0, into one latent."""
        if self.absent is None:
            return self.last(parts[..., 0, :])
        here = presence.unsqueeze(-1)
        return self.last((here * parts + (1 - here) * self.absent).sum(-2))


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
