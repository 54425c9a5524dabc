"""Exploration of one's own: noise that is strong at first and fades over the decisions.

semagram-train plugins=[docs/examples/own_exploration.py] noise=fading
"""

import torch
from semagram import Noise, register


class Fading(Noise):
    """White noise whose scale falls from 2 to 0.5 with a time constant of 5,000 draws."""

    def __init__(self, generator: torch.Generator):
        super().__init__("white", generator)
        self.draws = 0

    def draw(self, rows: int, size: int, due=None) -> torch.Tensor:
        """Draw noise (rows, size); `due` (rows,) marks the environments that need it."""
        self.draws += 1
        return (0.5 + 1.5 * 0.5 ** (self.draws / 5000)) * super().draw(rows, size, due)

    def state_dict(self) -> dict:
        """Return what a resumed run needs."""
        return super().state_dict() | {"draws": torch.tensor(self.draws)}

    def load_state_dict(self, saved: dict) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(saved)
        self.draws = int(saved["draws"])


register("noise", "fading", Fading)
