"""The encoder: normalises states, reads frames in patches, and fuses the features of all senses into one latent.

Vision on a CPU: frames are cut into patches while still bytes, then encoded and merged 2 x 2. Nothing overlaps, so
every layer is one matrix product (the patch stem of Dosovitskiy et al. 2021, arXiv 2010.11929; the merging of Liu et
al. 2021, arXiv 2103.14030, without attention). Patches are cut outside the compiled code: this only moves memory.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from worldmodel import registry
from worldmodel import senses as naming
from worldmodel.errors import UserError
from worldmodel.layers import NormedLinear
from worldmodel.observation import Observation
from worldmodel.senses import Shapes
from worldmodel.settings import ModelConfig, VisionConfig

TURNS = 1, 2, 4
"""How often a wave of an angle repeats in a full turn: what looks the same after a quarter of one needs four."""
NEAR_M = 0.01
"""Metres: nearer than this, the second form of a place is proportional to it, farther off to its logarithm."""
MORE = 3 + 3 + 2 * 2 * len(TURNS)
"""How many numbers `seen_from` returns."""


def seen_from(first: Float[Tensor, "*B 7"], other: Float[Tensor, "*B 7"]) -> Float[Tensor, "*B 18"]:
    """Return how one pose (place, unit quaternion w, x, y, z) looks from another.

    Its place in the other's frame; asinh of that, in units of NEAR_M; cosines and sines of TURNS times two angles about
    the vertical axis: of its x axis from the other's, and from the direction in which it lies from the origin. Which
    way a hand has to turn for a thing is a steep function of quaternions, of degree eight for a cube, that a net does
    not learn from few places: Fourier features, Tancik et al. 2020 (arXiv 2006.10739).
    """
    ours, its = rotation(first[..., 3:]), rotation(other[..., 3:])
    place = ours.mT @ (other[..., :3] - first[..., :3]).unsqueeze(-1)
    between = ours.mT @ its
    turned = its[..., 1, 0].atan2(its[..., 0, 0]) - other[..., 1].atan2(other[..., 0])
    angles = [between[..., 1, 0].atan2(between[..., 0, 0]), turned]
    waves = torch.stack([k * angle for angle in angles for k in TURNS], -1)
    place = place.squeeze(-1)
    return torch.cat([place, (place / NEAR_M).asinh(), waves.cos(), waves.sin()], -1)


def rotation(q: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3 3"]:
    """Return the rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class Normaliser(nn.Module):
    """(x - mean) / sqrt(variance + floor^2), clipped to +-10, of states x and, if they hold `poses`, what those see.

    Statistics are exact over all states observed (Chan et al. 1979, pairwise update), in double precision.
    The floor avoids amplifying the noise of a sensor that hardly moves.
    """

    FLOOR = 1e-2
    CLIP = 10.0
    count: Tensor
    total_mean: Tensor
    total_square: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, size: int, poses: tuple[int, ...] = ()):
        """Begin without statistics. `poses`: as `ModelConfig` says. Raises ValueError for a pose beyond the state."""
        super().__init__()
        if poses and max(poses) + 7 > size:
            raise UserError(f"model.poses={list(poses)}: the state has {size} numbers, a pose seven")
        self.poses = poses
        size += MORE * len(poses[1:])
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("total_square", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def observe(self, x: Float[Tensor, "B S"]) -> None:
        """Add B states to the statistics."""
        x = self.extended(x.to(self.total_mean))
        n, total = x.shape[0], self.count + x.shape[0]
        delta = x.mean(0) - self.total_mean
        self.total_square += (x - x.mean(0)).square().sum(0) + delta.square() * self.count * n / total
        self.total_mean += delta * n / total
        self.count.copy_(total)
        self._settle()

    @torch.no_grad()
    def take(self, mean: Float[Tensor, " S"], std: Float[Tensor, " S"], count: int) -> None:
        """Replace the statistics with those of `count` states from elsewhere."""
        self.count.fill_(count)
        self.total_mean.copy_(mean)
        self.total_square.copy_(std.double().square() * count)
        self._settle()

    def _settle(self) -> None:
        self.mean.copy_(self.total_mean)
        self.scale.copy_((self.total_square / self.count + self.FLOOR**2).rsqrt())

    def extended(self, x: Float[Tensor, "B S"]) -> Float[Tensor, "B E"]:
        """Return states, and behind each how its first pose sees the others."""
        each = [x[..., at : at + 7] for at in self.poses]
        return torch.cat([x, *(seen_from(each[0], other) for other in each[1:])], -1) if each else x

    def forward(self, x: Float[Tensor, "B S"]) -> Float[Tensor, "B E"]:
        """Extend, normalise and clip a batch of states."""
        return ((self.extended(x) - self.mean) * self.scale).clamp(-self.CLIP, self.CLIP)


def patches(frames: UInt8[Tensor, "*B F H W C"], side: int) -> UInt8[Tensor, "*B Y X N"]:
    """Cut a stack of F frames into squares of `side` pixels, padded at the last row and column; N = F side^2 C."""
    *lead, _, height, width, _ = frames.shape
    flat = frames.reshape(-1, *frames.shape[-4:])
    down, right = -height % side, -width % side
    if down or right:
        flat = torch.cat([flat, flat[:, :, -1:].expand(-1, -1, down, -1, -1)], 2)
        flat = torch.cat([flat, flat[:, :, :, -1:].expand(-1, -1, -1, right, -1)], 3)
    cut = rearrange(flat, "b f (y a) (x c) h -> b y x (f a c h)", a=side, c=side)
    return cut.view(*lead, *cut.shape[1:])


def shift(frames: UInt8[Tensor, "N F H W C"], pixels: int, generator: torch.Generator) -> UInt8[Tensor, "N F H W C"]:
    """Shift each of N stacks (on the CPU) by its own random offset of up to `pixels` pixels each way, repeating edges.

    The one augmentation that learning from pixels needs: Kostrikov et al. 2020 (arXiv 2004.13649).
    """
    if not pixels:
        return frames
    count, stack, height, width, channels = frames.shape
    down, right = torch.randint(2 * pixels + 1, (2, count), generator=generator)
    rows = (torch.arange(height) + down.unsqueeze(1) - pixels).clamp(0, height - 1)  # (N, H)
    first = torch.arange(count * stack).view(count, stack, 1) * height
    tall = frames.reshape(-1, width, channels).index_select(0, (first + rows.unsqueeze(1)).flatten())
    wide = tall.new_empty(count, stack * height, width + 2 * pixels, channels)
    wide[:, :, pixels:-pixels] = tall.view(count, -1, width, channels)
    wide[:, :, :pixels] = wide[:, :, pixels : pixels + 1]
    wide[:, :, -pixels:] = wide[:, :, -pixels - 1 : -pixels]
    lines = wide.view(count, stack * height, -1).numpy()
    windows = sliding_window_view(lines, width * channels, 2)[:, :, ::channels].transpose(0, 2, 1, 3)  # no copy
    moved = torch.from_numpy(windows[np.arange(count), right.numpy()])
    return moved.view(count, stack, height, width, channels)


def shifted(observation: Observation, pixels: int, generator: torch.Generator) -> Observation:
    """Shift the frame stacks (M, B, F, H, W, C) of each camera, each stack by its own offset; see `shift`."""
    stacks = {key: value for key, value in observation.values.items() if naming.is_image(key)}
    moved = {key: shift(value.flatten(0, 1), pixels, generator).view_as(value) for key, value in stacks.items()}
    return observation.with_values(moved)


MOTION = 16  # difference between two frames, of 255, that is scaled to 1


class PatchEncoder(nn.Module):
    """Encodes the patches of one camera's frame stack as one vector: a stem layer, then merging of 2 x 2 neighbours.

    Merging continues until at most FEW x FEW patches are left, which one layer reads together. Earlier frames enter as
    their difference to the newest one; without that, the encoder took twice as many updates to read velocities off the
    frames (`vision-probe` in docs/results/runs.csv).
    """

    FEW = 4  # maximum number of patches per side that are read together

    def __init__(self, height: int, width: int, config: VisionConfig, features: int, dtype: torch.dtype):
        """Create layers for this frame size and `features` outputs. Raises ValueError if a patch exceeds a frame."""
        super().__init__()
        if config.patch > min(height, width):
            raise UserError(f"model.vision.patch={config.patch}: at most {min(height, width)}, the frames' side")
        rows, columns = -(-height // config.patch), -(-width // config.patch)
        size = config.width
        self.frames = len(config.frame_lags)
        self.stem = NormedLinear(len(config.frame_lags) * config.patch**2 * 3, size, dtype=dtype)
        merges = []
        while max(rows, columns) > self.FEW:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            merges.append(NormedLinear(4 * size, size, dtype=dtype))
        self.merges = nn.ModuleList(merges)
        self.whole = NormedLinear(rows * columns * size, features, dtype=dtype)

    def forward(self, x: UInt8[Tensor, "*B Y X N"]) -> Float[Tensor, "*B D"]:
        """Return the feature vector of each frame stack."""
        lead = x.shape[:-3]
        now, *before = x.flatten(0, -4).to(self.stem.dtype).chunk(self.frames, -1)
        x = self.stem(torch.cat([(now - 128) / 64, *((now - then) / MOTION for then in before)], -1))
        for merge in self.merges:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
            x = merge(x)
        return self.whole(x.flatten(1)).view(*lead, -1)


class Encoder(nn.Module):
    """Fuses the sum of all senses' features; a missing one adds a learned embedding, but for a model's only sense."""

    absent: nn.Parameter | None

    def __init__(self, senses: Shapes, config: ModelConfig, dtype: torch.dtype):
        """Create one encoder per sense, for its shape. Raises ValueError for an unknown sense."""
        super().__init__()
        naming.check(senses)
        self.keys = tuple(senses)
        self.parts = nn.ModuleList(_part(key, shape, config, dtype) for key, shape in senses.items())
        self.in_patches = [key for key, part in zip(senses, self.parts, strict=True) if isinstance(part, PatchEncoder)]
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
    """Make the encoder of one sense: a registered one, or ours where that has none for this sense."""
    own = registry.find("encoder", config.encoder)
    if own is not None and (part := own(key, shape, config, dtype)) is not None:
        return part
    if naming.is_image(key):
        return PatchEncoder(shape[0], shape[1], config.vision, config.width, dtype)
    return NormedLinear(shape[0], config.width, dtype=dtype)
