"""A loss of one's own: imagined latents are to keep their distance from each other.

semagram-train plugins=[docs/examples/own_loss.py] "learning.losses={apart: 0.01}"
"""

import torch
from semagram import LossInputs, register


@register("loss", "apart")
def apart(inputs: LossInputs) -> torch.Tensor:
    """Return the mean similarity () of the latents imagined from different windows, (H+1, B, D)."""
    z = inputs.latents.flatten(0, 1)
    return (z @ z.T).mean()
