"""The codec: a chunk of actions as a short string of ids, and back."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from policies.codec import saving, training
from policies.codec.bits import IdString
from policies.codec.companding import Trees
from policies.codec.scaling import Scaling
from policies.codec.script import Script
from policies.codec.settings import CodecConfig
from policies.codec.strokes import Strokes
from policies.codec.switches import Switches


@dataclass(frozen=True)
class Codec:
    """Chunks (..., T, D) of actions in their own units, and ids (..., ids) in [0, 2^bits).

    The string is ordered: any prefix of it decodes, to a coarser chunk. It is total: every string decodes, within the
    bounds and no faster than the data. NumPy arrays give NumPy arrays, tensors give tensors on their device.
    """

    config: CodecConfig
    scaling: Scaling
    strokes: Strokes
    switches: Switches
    trees: Trees
    string: IdString

    @classmethod
    def fit(cls, episodes: list[np.ndarray], config: CodecConfig | None = None, **choices) -> "Codec":
        """A codec for the actions of `episodes`, each (steps, D).

        `limits`: (low, high), each (D,), that decoded actions keep to; `switching`: the channels that switch (found in
        the data if not given); `stride`: steps between the chunks it learns from. Raises ValueError for episodes that
        are all too short, of different widths, or not finite.
        """
        return cls(*training.fit(episodes, config or CodecConfig(), **choices))

    @property
    def channels(self) -> int:
        """D, the numbers in an action."""
        return len(self.scaling.middle)

    @property
    def vocabulary(self) -> int:
        """How many different ids there are."""
        return 2**self.config.bits

    def encode(self, chunk, start=None):
        """The ids (..., ids), int64, of chunks (..., T, D) that begin one step after `start` (..., D).

        `start` is where the arm is: the last action of the chunk before, as it was decoded. Without it the
        chunk's first action is taken. Raises ValueError for another shape, or numbers that are not finite.
        """
        values = _array(chunk)
        if values.shape[-2:] != (self.config.length, self.channels):
            raise ValueError(f"chunk {values.shape}: (..., {self.config.length}, {self.channels})")
        first = self._start(values[..., 0, :] if start is None else start, values.shape[:-2])
        if not np.isfinite(values).all():
            raise ValueError("chunk: a number that is not finite")
        ids = self._ids(self.scaling.scale(values.reshape(len(first), *values.shape[-2:])), first)
        return _like(ids.reshape(*values.shape[:-2], self.config.ids), chunk)

    def decode(self, ids, start=None):
        """The chunks (..., T, D), float32, of the first n <= `config.ids` ids (..., n), from `start` (..., D).

        A relative codec needs the start that was encoded with; another takes none. Raises ValueError for an id outside
        the vocabulary, too many ids, or a start that is missing or has another shape.
        """
        string = _array(ids)
        shape, count = string.shape[:-1], string.shape[-1]
        if count > self.config.ids:
            raise ValueError(f"ids {string.shape}: at most {self.config.ids} a chunk")
        if string.size and not (string.min() >= 0 and string.max() < self.vocabulary):
            raise ValueError(f"ids from {string.min()} to {string.max()}: each from 0 to {self.vocabulary - 1}")
        if start is None and self.config.relative:
            raise ValueError("start: where the arm is, (..., D); only a codec of relative=False decodes without")
        scaled = self._chunk(string.reshape(math.prod(shape), count).astype(np.int64), self._start(start, shape))
        chunk = self.scaling.unscale(scaled).astype(np.float32)
        return _like(chunk.reshape(*shape, self.config.length, self.channels), ids)

    def _start(self, start, shape: tuple[int, ...]) -> Float[np.ndarray, "N D"]:
        """Where the chunks begin, scaled; zeros for a codec that is not relative."""
        if not self.config.relative:
            return np.zeros((math.prod(shape), self.channels))
        first = _array(start)
        if first.shape != (*shape, self.channels):
            raise ValueError(f"start {first.shape}: {(*shape, self.channels)}, an action for each chunk")
        if not np.isfinite(first).all():
            raise ValueError("start: a number that is not finite")
        return self.scaling.scale(first.reshape(math.prod(shape), self.channels))

    def save(self, folder) -> None:
        """Write the codec as a folder: config.json, codec.safetensors, manifest.json. Raises OSError."""
        saving.save(self, Path(folder))

    @classmethod
    def load(cls, folder) -> "Codec":
        """The codec that `save` wrote there. Raises FolderError for a folder that is not whole or not a codec's."""
        return cls(*saving.load(Path(folder)))

    def _ids(self, scaled: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N n"]:
        happening = self._script.cells(self.switches.numbers(scaled, start))
        smooth = scaled - start[:, None]
        if self.switches.count:
            smooth -= self.switches.signal(self._script.rounded(happening), start)
        drawn = self._script.cells(self.strokes.numbers(smooth, start), self.switches.count)
        return self._script.write(np.concatenate([happening, drawn], axis=1))

    def _chunk(self, ids: Int[np.ndarray, "N n"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N T D"]:
        numbers, count = self._script.read(ids), self.switches.count
        chunk = self.strokes.curve(numbers[:, count:], start, *self._bounds)
        if count:
            chunk += self.switches.signal(numbers[:, :count], start)
            np.maximum(chunk, self.scaling.low, out=chunk)
            np.minimum(chunk, self.scaling.high, out=chunk)
        return chunk

    @cached_property
    def _script(self) -> Script:
        return Script(self.trees, self.string)

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the control points, scaled; what is added to an event is bounded with it."""
        free = np.isin(np.arange(self.channels), self.switches.channels)
        return np.where(free, -np.inf, self.scaling.low), np.where(free, np.inf, self.scaling.high)


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _like(values: np.ndarray, given):
    return torch.from_numpy(values).to(given.device) if isinstance(given, Tensor) else values
