"""An encoder of one's own: a convolutional net for cameras; states keep ours.

semagram-train recipe=pixels-swingup plugins=[docs/examples/own_encoder.py] model.encoder=cnn
"""

from itertools import pairwise

from semagram import register
from torch import nn


class Convolutions(nn.Module):
    """Frames (B, F, H, W, 3) of bytes to features (B, width)."""

    def __init__(self, width: int, frames: int):
        super().__init__()
        sizes, layers = (3 * frames, 32, 64, 64), []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 64, width))

    def forward(self, frames):
        """Encode stacks of frames."""
        return self.net(frames.movedim(-1, -3).flatten(-4, -3) / 128 - 1.0)


@register("encoder", "cnn")
def cnn(key, shape, config, dtype) -> nn.Module | None:
    """Return the encoder of a camera, None (ours) for every other sense."""
    return Convolutions(config.width, len(config.vision.frame_lags)) if len(shape) == 3 else None
