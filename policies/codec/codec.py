"""The codec: a chunk of actions as a short string of ids, and back; as a folder, JSON and safetensors, no pickle."""

import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors import numpy as arrays_of

from policies.codec import fitting
from policies.codec.events import Events
from policies.codec.quantizer import BitPacking, ScalarQuantizer
from policies.codec.spline_pca import SplinePCA
from policies.settings import CodecConfig
from policies.storage.folders import MANIFEST, FolderError, check_folder, write_folder
from worldmodel.strict import build

CONFIG, ARRAYS = "config.json", "codec.safetensors"
KIND = "semagram-codec"
RECORDS: dict[str, type] = {"scaling": fitting.Scaling, "spline": SplinePCA, "quantizer": ScalarQuantizer}
"""The parts of a codec all of whose fields are arrays."""


@dataclass(frozen=True)
class Codec:
    """Conversion between chunks (..., T, D) of actions in their own units and ids (..., ids) in [0, 2^bits).

    A chunk is the sum of its start, the `events` of the channels that switch, and a curve. Their numbers are quantized,
    and the bits of the quantized numbers packed into ids in the same order for all chunks.

    The code is ordered: any prefix of a string decodes, to a coarser chunk. It is total: every string decodes to a
    chunk within the bounds, whose curves are no faster than the data.
    """

    config: CodecConfig
    scaling: fitting.Scaling
    events: Events
    spline: SplinePCA
    packing: BitPacking

    @classmethod
    def fit(
        cls, episodes: list[np.ndarray], config: CodecConfig | None = None, stride: int = fitting.STRIDE
    ) -> "Codec":
        """Fit a codec to `episodes` (steps, D), of whose chunks `stride` lie between two. Raises ValueError."""
        return cls(*fitting.fit(episodes, config or CodecConfig(), stride))

    @property
    def channels(self) -> int:
        """D, the size of an action."""
        return len(self.scaling.middle)

    @property
    def switching(self) -> tuple[int, ...]:
        """The channels that switch, whose jumps are written as events."""
        return self.events.channels

    @property
    def vocabulary(self) -> int:
        """The number of different ids, 2^bits."""
        return 2**self.config.bits

    def encode(self, chunk: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Return the ids (..., ids), int64, of chunks (..., T, D) that begin one step after `start` (..., D).

        `start` is where the arm is: the last action of the previous chunk, as decoded. By default it is the chunk's
        first action. Raises ValueError for a wrong shape or values that are not finite.
        """
        values = np.asarray(chunk)
        if values.shape[-2:] != (self.config.length, self.channels):
            raise ValueError(f"chunk {values.shape}: (..., {self.config.length}, {self.channels})")
        first = self._start(values[..., 0, :] if start is None else start, values.shape[:-2])
        if not np.isfinite(values).all():
            raise ValueError("chunk: a number that is not finite")
        ids = self._write(self.scaling.scale(values.reshape(len(first), *values.shape[-2:])), first)
        return ids.reshape(*values.shape[:-2], self.config.ids)

    def decode(self, ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the chunks (..., T, D), float32, of the first n <= `config.ids` ids (..., n), from `start` (..., D).

        The start is the one used for encoding. Raises ValueError for ids that are not integers, an id outside the
        vocabulary, too many ids, or a start of a wrong shape or not finite.
        """
        string = np.asarray(ids)
        if string.ndim == 0 or string.dtype.kind not in ("iu" if string.size else "iuf"):
            raise ValueError(f"ids {string.shape}, {string.dtype}: whole numbers, (..., at most {self.config.ids})")
        shape, count = string.shape[:-1], string.shape[-1]
        if count > self.config.ids:
            raise ValueError(f"ids {string.shape}: at most {self.config.ids} a chunk")
        if string.size and not (string.min() >= 0 and string.max() < self.vocabulary):
            raise ValueError(f"ids from {string.min()} to {string.max()}: each from 0 to {self.vocabulary - 1}")
        string = string.reshape(math.prod(shape), count).astype(np.int64)
        chunk = self.scaling.unscale(self._read(string, self._start(start, shape))).astype(np.float32)
        return chunk.reshape(*shape, self.config.length, self.channels)

    def _start(self, start, shape: tuple[int, ...]) -> Float[np.ndarray, "N D"]:
        """Return where N chunks begin, scaled."""
        first = np.asarray(start)
        if first.shape != (*shape, self.channels):
            raise ValueError(f"start {first.shape}: {(*shape, self.channels)}, an action for each chunk")
        if not np.isfinite(first).all():
            raise ValueError("start: a number that is not finite")
        return self.scaling.scale(first.reshape(math.prod(shape), self.channels))

    def _write(self, scaled: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N n"]:
        """Return the ids of scaled chunks."""
        happening = self.packing.cells(self.events.numbers(scaled, start))
        smooth = scaled - start[:, None]
        if self.events.count:
            smooth -= self.events.signal(self.packing.values(happening), start)
        curve = self.packing.cells(self.spline.numbers(smooth, start), self.events.count)
        return self.packing.pack(np.concatenate([happening, curve], axis=1))

    def _read(self, ids: Int[np.ndarray, "N n"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N T D"]:
        """Return the scaled chunks of any ids, clamped to +-margin."""
        numbers, count, margin = self.packing.unpack(ids), self.events.count, self.config.margin
        if not count:
            return self.spline.curve(numbers, start, -margin, margin)
        chunk = self.spline.curve(numbers[:, count:], start, -self._reach, self._reach)
        chunk += self.events.signal(numbers[:, :count], start)
        np.maximum(chunk, -margin, out=chunk)
        return np.minimum(chunk, margin, out=chunk)

    @cached_property
    def _reach(self) -> np.ndarray:
        """Bounds (D,) of a curve: none in the channels that switch, where only its sum with the events is clamped."""
        return np.where(np.isin(np.arange(self.channels), self.switching), np.inf, self.config.margin)

    def save(self, path: str | PathLike) -> None:
        """Write the codec as a folder, in the place of nothing or a codec; else raise FileExistsError, or OSError."""
        check_place(Path(path))
        records = {"scaling": self.scaling, "spline": self.spline, "quantizer": self.packing.quantizer}
        arrays = {f"{name}.{f.name}": getattr(records[name], f.name) for name in RECORDS for f in fields(RECORDS[name])}
        arrays |= {
            "events.channels": np.array(self.events.channels, dtype=int),
            "events.levels": self.events.levels,
            "events.durations": np.array(self.events.durations),
            "events.slots": np.array([self.events.slots]),
            "refines": self.packing.refines,
        }
        files = {
            CONFIG: json.dumps({"type": KIND, "codec": asdict(self.config)}, indent=1).encode(),
            ARRAYS: arrays_of.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}),
        }
        write_folder(Path(path), files, {name: version(name) for name in ("semagram", "numpy")})

    @classmethod
    def load(cls, path: str | PathLike) -> "Codec":
        """Load the codec that `save` wrote. Raises FolderError for a folder that is incomplete or holds no codec."""
        folder = Path(path)
        check_folder(folder, (CONFIG, ARRAYS))
        try:
            about = json.loads((folder / CONFIG).read_text())
            if about["type"] != KIND:
                raise ValueError(f"{CONFIG} is of a {about['type']}")
            return cls._of(build(CodecConfig, about["codec"], "codec."), folder / ARRAYS)
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise FolderError(f"{folder}: not a codec ({type(error).__name__}: {error})") from error

    @classmethod
    def _of(cls, config: CodecConfig, file: Path) -> "Codec":
        """Return the codec of these arrays."""
        arrays = arrays_of.load_file(file)
        scaling, spline, quantizer = (
            kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)}) for name, kind in RECORDS.items()
        )
        channels, durations = (tuple(arrays[f"events.{name}"].tolist()) for name in ("channels", "durations"))
        slots, width = int(arrays["events.slots"].item()), len(scaling.middle)
        events = Events(channels, arrays["events.levels"], durations, slots, config.length, width)
        return cls(config, scaling, events, spline, BitPacking(quantizer, arrays["refines"], config.ids, config.bits))


def check_place(folder: Path) -> None:
    """Raise FileExistsError if `folder` exists and is neither empty nor a codec's."""
    codec_or_nothing = {CONFIG, ARRAYS, MANIFEST}, set[str]()
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} in codec_or_nothing):
        raise FileExistsError(f"{folder}: already there, and no codec; give a new folder")
