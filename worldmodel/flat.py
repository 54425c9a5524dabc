"""Keep all parameters of a module in one buffer, so that Adam, clipping and averaging are single operations."""

from itertools import pairwise

import torch
from torch import Tensor, nn


def flatten(module: nn.Module) -> Tensor:
    """Move all parameters of `module` into one new 1-D buffer and return it; each parameter becomes a view of it.

    The order is that of `module.named_parameters()`.
    """
    parameters = list(module.parameters())
    buffer = torch.cat([p.detach().reshape(-1) for p in parameters])
    for p, view in zip(parameters, views(buffer, parameters), strict=True):
        p.data = view
    return buffer


def views(buffer: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Split a 1-D buffer into consecutive views, one with the shape of each parameter."""
    parts = buffer.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def segment(module: nn.Module, prefix: str) -> slice:
    """Return the slice of the buffer with all parameters named `prefix`*. Raises ValueError if scattered or none."""
    start, places = 0, []
    for name, p in module.named_parameters():
        if name.startswith(prefix):
            places.append((start, start + p.numel()))
        start += p.numel()
    if not places or any(a[1] != b[0] for a, b in pairwise(places)):
        raise ValueError(f"parameters named {prefix}* do not stand together")
    return slice(places[0][0], places[-1][1])
