"""The codec: a chunk of actions as a short string of ids, and back."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from policies.codec import saving, training
from policies.codec.corners import Corners
from policies.codec.curves import Curves
from policies.codec.scaling import Scaling
from policies.codec.settings import CodecConfig
from policies.storage.folders import FolderError


@dataclass(frozen=True)
class Codec:
    """Chunks (..., T, D) of actions in their own units, and ids (..., ids) in [0, 2^bits).

    The string is ordered: any prefix of it decodes, to a coarser chunk. It is total: every string decodes, within the
    bounds, and curves no faster than the data (corners may jump). NumPy arrays give NumPy arrays, tensors give tensors
    on their device.
    """

    config: CodecConfig
    scaling: Scaling
    writing: Curves | Corners

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
    def switching(self) -> tuple[int, ...]:
        """The channels that are written as events among curves."""
        return self.writing.switching

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
        ids = self.writing.write(self.scaling.scale(values.reshape(len(first), *values.shape[-2:])), first)
        return _like(ids.reshape(*values.shape[:-2], self.config.ids), chunk)

    def decode(self, ids, start=None):
        """The chunks (..., T, D), float32, of the first n <= `config.ids` ids (..., n), from `start` (..., D).

        A relative codec needs the start that was encoded with; another takes none. Raises ValueError for an id outside
        the vocabulary, too many ids, or a start that is missing or has another shape.
        """
        string = _array(ids)
        if string.ndim == 0 or string.dtype.kind not in ("iu" if string.size else "iuf"):
            raise ValueError(f"ids {string.shape}, {string.dtype}: whole numbers, (..., at most {self.config.ids})")
        shape, count = string.shape[:-1], string.shape[-1]
        if count > self.config.ids:
            raise ValueError(f"ids {string.shape}: at most {self.config.ids} a chunk")
        if string.size and not (string.min() >= 0 and string.max() < self.vocabulary):
            raise ValueError(f"ids from {string.min()} to {string.max()}: each from 0 to {self.vocabulary - 1}")
        if start is None and self.config.relative:
            raise ValueError("start: where the arm is, (..., D); only a codec of relative=False decodes without")
        string = string.reshape(math.prod(shape), count).astype(np.int64)
        scaled = self.writing.read(string, self._start(start, shape), self.scaling.low, self.scaling.high)
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

    def said(self, ids):
        """How many ids (...) of strings (..., n) say something; those after them can be left out."""
        string = _array(ids)
        return _like(self.writing.said(string), ids)

    def save(self, folder) -> None:
        """Write the codec as a folder: config.json, codec.safetensors, manifest.json. Raises OSError."""
        saving.save(self, Path(folder))

    @classmethod
    def load(cls, folder) -> "Codec":
        """The codec that `save` wrote there. Raises FolderError for a folder that is not whole or not a codec's."""
        codec = cls(*saving.load(Path(folder)))
        codec._check(Path(folder))
        return codec

    def _check(self, folder: Path) -> None:
        """Raise FolderError unless its parts fit each other, as far as a chunk tells that is written and read."""
        start = np.zeros(self.channels)
        try:
            with np.errstate(all="ignore"):
                ids = self.encode(np.zeros((self.config.length, self.channels)), start)
                finite = bool(np.isfinite(self.decode(ids, start)).all())
        except (ValueError, IndexError) as error:
            raise FolderError(f"{folder}: its parts do not fit each other ({error})") from error
        if not finite:
            raise FolderError(f"{folder}: it decodes to what is not finite")


def _array(values) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # which NumPy does not have
    return np.asarray(values)


def _like(values: np.ndarray, given):
    return torch.from_numpy(values).to(given.device) if isinstance(given, Tensor) else values
