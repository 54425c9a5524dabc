"""A batch of token windows, as the nets see them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """H tokens for B starts, as the nets see them; the H tokens of a start are all of one kind.

    seen: what `WorldModel.prepare` gave, each (H+1, B, ...). token (H, B, W). reward (H, B), discounted over each
    token. continues (H, B), 0 where the episode terminated within the token. valid (H, B), 0 where the token never
    happened. planned_token (B, W), what the planner chose for the first token, which was then executed with noise.
    demonstrated (B,), 1 where an expert acted, who is imitated whatever the value of its tokens.
    """

    seen: dict[str, Tensor]
    token: Float[Tensor, "H B W"]
    reward: Float[Tensor, "H B"]
    continues: Float[Tensor, "H B"]
    valid: Float[Tensor, "H B"]
    planned_token: Float[Tensor, "B W"]
    demonstrated: Float[Tensor, " B"]

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """Several batches as one. Where one has masks and another has none, the other missed nothing."""
        if len(batches) == 1:
            return batches[0]
        keys = dict.fromkeys(key for batch in batches for key in batch.seen)
        seen = {key: torch.cat([batch._shown(key) for batch in batches], 1) for key in keys}
        columns = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(cls) if f.name != "seen"}
        first_only = "planned_token", "demonstrated"  # without the dimension H
        return cls(
            seen,
            **{name: torch.cat(parts, 0 if name in first_only else 1) for name, parts in columns.items()},
        )

    def _shown(self, key: str) -> Tensor:
        """What was seen by its key; ones for a mask that there is none of."""
        return self.seen[key] if key in self.seen else self.valid.new_ones(len(self.valid) + 1, self.valid.shape[1], 1)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        seen = {key: value.to(device) for key, value in self.seen.items()}
        return Batch(seen, *(getattr(self, f.name).to(device) for f in fields(self) if f.name != "seen"))
